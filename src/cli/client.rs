//! One request to the control API, and what its failure means.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::{CliError, Exit};
use crate::scaling::report::ErrorBody;

/// Bytes of an answer: a hundred thousand sessions with their statements.
const LONGEST_ANSWER: u64 = 64 << 20;
/// Bytes of one event.
const LONGEST_LINE: u64 = 1 << 20;
/// Reads are answered from memory.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Event streams send a line at least every 15 s.
const SILENCE: Duration = Duration::from_secs(60);

/// The control API of one server.
#[derive(Debug, Clone)]
pub(super) struct Client {
    address: String,
    agent: Agent,
}

impl Client {
    /// `address` is `host:port`, with or without `http://`; the default port is 8460.
    pub(super) fn new(address: &str) -> Result<Self, CliError> {
        let plain = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        let authority = plain.parse::<ureq::http::uri::Authority>().ok();
        let authority =
            authority.filter(|it| !it.host().is_empty() && !plain.contains('@')).ok_or_else(|| {
                let error = CliError::new(Exit::Usage, format!("`{address}` is not an address"));
                error.with_hint("write --admin 127.0.0.1:8460")
            })?;
        let address = match authority.port() {
            Some(_) => plain.to_owned(),
            None => format!("{plain}:8460"),
        };
        // A proxy from the environment would be asked for this machine's loopback address.
        let agent = Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_resolve(Some(Duration::from_secs(5)))
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_send_request(Some(READ_TIMEOUT))
            .timeout_send_body(Some(READ_TIMEOUT))
            .build();
        Ok(Self { address, agent: agent.into() })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Reads a document: as it came, and as what it means.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<(Value, T), CliError> {
        let request = self.agent.get(self.url(path)).config().timeout_global(Some(READ_TIMEOUT)).build();
        self.document(request.call())
    }

    /// Asks for a change and waits at most `deadline` for its end.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        deadline: Duration,
    ) -> Result<(Value, T), CliError> {
        let request = self.agent.post(self.url(path)).config().timeout_global(Some(deadline)).build();
        let request = request.header("content-type", "application/json");
        self.document(request.send(body.to_string()))
    }

    /// Reads a stream of lines until it ends or `each` fails; empty lines are left out.
    pub(super) fn follow(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let request = self.agent.get(self.url(path)).config();
        let request =
            request.timeout_recv_response(Some(READ_TIMEOUT)).timeout_per_read(Some(SILENCE)).build();
        let mut response = request.call().map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(self.refused(&mut response));
        }
        let mut reader = BufReader::new(response.into_body().into_reader());
        loop {
            let mut line = String::new();
            let read = reader.by_ref().take(LONGEST_LINE).read_line(&mut line);
            let read = read.map_err(|error| self.lost(&error.to_string()))?;
            if read == 0 {
                return Ok(());
            }
            if !line.trim().is_empty() {
                each(line.trim_end())?;
            }
        }
    }

    fn document<T: DeserializeOwned>(
        &self,
        answer: Result<Response<Body>, ureq::Error>,
    ) -> Result<(Value, T), CliError> {
        let mut response = answer.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(self.refused(&mut response));
        }
        let text = self.text(&mut response)?;
        let foreign = |error: serde_json::Error| {
            CliError::new(Exit::Failed, format!("{} answers something else: {error}", self.address))
                .with_hint("is it the control API of a Scalepoint of this version?")
        };
        let value: Value = serde_json::from_str(&text).map_err(foreign)?;
        let meaning = T::deserialize(&value).map_err(foreign)?;
        Ok((value, meaning))
    }

    fn text(&self, response: &mut Response<Body>) -> Result<String, CliError> {
        let body = response.body_mut().with_config().limit(LONGEST_ANSWER);
        body.read_to_string().map_err(|error| self.lost(&error.to_string()))
    }

    /// An error answer; the status says whose fault it is.
    fn refused(&self, response: &mut Response<Body>) -> CliError {
        let status = response.status().as_u16();
        let exit = match status {
            400..=408 | 413..=428 => Exit::Usage,
            409 | 429 | 503 => Exit::Refused,
            _ => Exit::Failed,
        };
        match self.text(response).ok().and_then(|text| serde_json::from_str::<ErrorBody>(&text).ok()) {
            Some(body) => CliError { exit, message: body.error, hint: body.hint },
            None => CliError::new(Exit::Failed, format!("{} answers with status {status}", self.address))
                .with_hint("is it the control API of a Scalepoint?"),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> CliError {
        let reason = match error {
            ureq::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        let message = format!("the server at {} cannot be reached: {reason}", self.address);
        let hint = "start it with `scalepoint serve`, or name it with --admin or SCALEPOINT_ADMIN";
        CliError::new(Exit::Unreachable, message).with_hint(hint)
    }

    fn lost(&self, reason: &str) -> CliError {
        let message = format!("the connection to {} was lost: {reason}", self.address);
        CliError::new(Exit::Unreachable, message).with_hint("`scalepoint status` shows what became of it")
    }
}
