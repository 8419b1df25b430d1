//! One function per route.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::ApiError;
use super::{Api, BODY_TIMEOUT, LONGEST_BODY, follow};
use crate::config::TimeoutAction;
use crate::scaling::control_plane::{
    CHANGE_MARGIN, ControlPlane, LEAST_SECONDS_BEFORE_TIMEOUT, MOST_SECONDS_BEFORE_TIMEOUT, Refusal,
    ScaleRequest,
};
use crate::scaling::report::{ClusterList, ClusterStatus, EventList, ScaleReport, SessionList};
use crate::telemetry::ENCODING;

/// The process answers; says nothing about the clusters, so that one bad cluster does not restart them all.
pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub(super) async fn metrics(State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, ENCODING)], api.control.metrics_text()).into_response()
}

pub(super) async fn clusters(State(api): State<Api>) -> Json<ClusterList> {
    Json(ClusterList { clusters: api.control.clusters() })
}

pub(super) async fn cluster(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ClusterStatus>, ApiError> {
    api.control.cluster(&name).map(Json).ok_or_else(|| ApiError::unknown_cluster(&name))
}

pub(super) async fn sessions(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<SessionList>, ApiError> {
    let sessions = api.control.sessions(&name).ok_or_else(|| ApiError::unknown_cluster(&name))?;
    Ok(Json(SessionList { sessions }))
}

/// One document, or with `?follow` a stream of lines.
pub(super) async fn events(
    State(api): State<Api>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (past, coming) = api.control.events(&name).ok_or_else(|| ApiError::unknown_cluster(&name))?;
    let options = query.unwrap_or_default();
    let follows = options.split('&').any(|option| matches!(option, "follow" | "follow=true" | "follow=1"));
    if !follows {
        return Ok(Json(EventList { events: past }).into_response());
    }
    let permit = api.followers.clone().try_acquire_owned().map_err(|_| ApiError::busy("event streams"))?;
    let lines = Body::from_stream(follow::lines(name, past, coming, permit));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// Body of `POST …/scale`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleBody {
    capacity: u32,
    seconds_before_timeout: Option<u32>,
    timeout_action: Option<TimeoutAction>,
    wait: Option<bool>,
}

pub(super) async fn scale(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<ScaleReport>, ApiError> {
    let body: ScaleBody = read_json(body).await?;
    let range = LEAST_SECONDS_BEFORE_TIMEOUT..=MOST_SECONDS_BEFORE_TIMEOUT;
    if let Some(seconds) = body.seconds_before_timeout.filter(|seconds| !range.contains(seconds)) {
        let error = ApiError::bad_request(format!("seconds_before_timeout: {seconds} is out of range"));
        return Err(error.with_hint(format!("{} to {} seconds", range.start(), range.end())));
    }
    let request = ScaleRequest {
        capacity: body.capacity,
        seconds_before_timeout: body.seconds_before_timeout,
        timeout_action: body.timeout_action,
        wait: body.wait.unwrap_or(true),
    };
    let search = request.seconds_before_timeout.unwrap_or(MOST_SECONDS_BEFORE_TIMEOUT);
    let deadline = CHANGE_MARGIN + Duration::from_secs(search.into());
    to_its_end(deadline, api.control, |control| async move { control.scale(&name, request).await }).await
}

pub(super) async fn pause(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ScaleReport>, ApiError> {
    to_its_end(CHANGE_MARGIN, api.control, |control| async move { control.pause(&name).await }).await
}

pub(super) async fn resume(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ScaleReport>, ApiError> {
    to_its_end(CHANGE_MARGIN, api.control, |control| async move { control.resume(&name).await }).await
}

/// Waits for a change in a task of its own: an operator who leaves, or loses patience, does not end the change.
async fn to_its_end<F>(
    deadline: Duration,
    control: Arc<dyn ControlPlane>,
    change: impl FnOnce(Arc<dyn ControlPlane>) -> F,
) -> Result<Json<ScaleReport>, ApiError>
where
    F: Future<Output = Result<ScaleReport, Refusal>> + Send + 'static,
{
    let change = tokio::spawn(change(control));
    match tokio::time::timeout(deadline, change).await {
        Ok(Ok(outcome)) => Ok(Json(outcome?)),
        Ok(Err(broken)) => {
            tracing::error!(%broken, "a capacity change was lost");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Err(ApiError::new(status, "internal", "the change was lost")
                .with_hint("look at the server's log"))
        }
        Err(_) => {
            let error = ApiError::new(StatusCode::GATEWAY_TIMEOUT, "still_under_way", "the change goes on");
            Err(error.with_hint("`scalepoint status` shows how it ends"))
        }
    }
}

async fn read_json<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, LONGEST_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let error = format!("the body is longer than {LONGEST_BODY} bytes, or broken");
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error));
        }
        Err(_) => {
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not arrive"));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::bad_request(format!("the body cannot be read: {error}"))
            .with_hint("a JSON object such as {\"capacity\": 4}")
    })
}

pub(super) async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "unknown_path", "there is nothing at this path")
        .with_hint("begin at /v1/clusters")
}

pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", "this path has another method")
}
