//! Answers that are errors: a status, and a body that says what to do.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::scaling::control_plane::{Fault, Refusal};
use crate::scaling::report::ErrorBody;

/// An error answer.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &str, error: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { error: error.into(), hint: None, code: code.to_owned() } }
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.body.hint = Some(hint.into());
        self
    }

    pub(super) fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", error)
    }

    pub(super) fn busy(what: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", format!("too many {what} at once"))
            .with_hint("try again in a moment")
    }

    pub(super) fn unknown_cluster(name: &str) -> Self {
        Refusal::UnknownCluster { name: name.to_owned() }.into()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.fault() {
            Fault::NotFound => StatusCode::NOT_FOUND,
            Fault::Request => StatusCode::BAD_REQUEST,
            Fault::State => StatusCode::CONFLICT,
            Fault::Server => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut answer = Self::new(status, refusal.code(), refusal.to_string());
        answer.body.hint = refusal.hint();
        answer
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
