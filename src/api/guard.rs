//! Who may ask at all: see the threat in the parent module's doc.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::answer::ApiError;

/// Lets a request in, or answers why not.
pub(super) async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let admitted = check(&api, &request)
        .and_then(|()| api.requests.clone().try_acquire_owned().map_err(|_| ApiError::busy("requests")));
    let mut response = match admitted {
        // Every route has its own deadline; the permit lives until the head of the answer.
        Ok(_permit) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn check(api: &Api, request: &Request) -> Result<(), ApiError> {
    if !names_this_server(api, request) {
        let refused =
            ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", "this host name is not allowed");
        return Err(refused.with_hint("use an IP address or localhost, or add it to [admin] allowed_hosts"));
    }
    let changes = ![Method::GET, Method::HEAD].contains(request.method());
    if changes && !is_json(request.headers()) {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let refused = ApiError::new(status, "not_json", "the request is not application/json");
        return Err(refused.with_hint("send `content-type: application/json`"));
    }
    Ok(())
}

/// Exactly one Host, an allowed one, and no other host in the request line.
fn names_this_server(api: &Api, request: &Request) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let in_line = request.uri().host();
    host.to_str().is_ok_and(|host| is_allowed(host_of(host), &api.allowed_hosts))
        && in_line.is_none_or(|host| is_allowed(Some(host), &api.allowed_hosts))
}

/// The host of `host[:port]`; `None` when it is neither.
fn host_of(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    let port_is_fine = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
    port_is_fine.then_some(host)
}

fn is_allowed(host: Option<&str>, allowed: &[String]) -> bool {
    let Some(host) = host else { return false };
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_address = match literal {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<IpAddr>().is_ok(),
    };
    is_address || host.eq_ignore_ascii_case("localhost") || allowed.contains(&host.to_ascii_lowercase())
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let allowed = ["scale.example.org".to_owned()];
        let cases = [
            ("127.0.0.1:8460", true),
            ("127.0.0.1", true),
            ("[::1]:8460", true),
            ("[::1]", true),
            ("localhost:8460", true),
            ("LocalHost", true),
            ("Scale.Example.org:1", true),
            ("evil.example.org", false),
            ("localhost.evil.example.org", false),
            ("127.0.0.1.evil.example.org", false),
            ("[evil]:1", false),
            ("[::1", false),
            ("::1:8460", false),
            ("localhost:port", false),
            ("localhost:1:2", false),
            ("", false),
        ];
        for (host, fine) in cases {
            assert_eq!(is_allowed(host_of(host), &allowed), fine, "{host:?}");
        }
    }
}
