//! Who may ask what: keys in constant time, and what holds when there are none.

use crate::error::ApiError;
use crate::keys::KeySet;
use anyhow::Result;
use axum::http::{HeaderMap, StatusCode, header};
use hone_pipeline::wire::{StartRefused, is_loopback_name};
use std::net::SocketAddr;

/// What a path needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Nothing.
    Open,
    /// A read or an admin key.
    Read,
    /// An admin key.
    Admin,
}

/// The rule in force.
pub struct Access {
    keys: KeySet,
}

impl Access {
    /// Refuses to serve beyond loopback without keys, as a [`StartRefused`].
    pub fn new(keys: KeySet, listen: SocketAddr) -> Result<Access> {
        if keys.is_open() && !listen.ip().is_loopback() {
            let message = format!(
                "listen on {listen}: other machines can reach it and no key is configured\nhint: make one with `hone keys make NAME`, or \
                 set HONE_READ_KEY and HONE_ADMIN_KEY, or listen on 127.0.0.1"
            );
            return Err(StartRefused(message).into());
        }
        Ok(Access { keys })
    }

    /// Whether a request may go on.
    pub fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let level = level_of(path);
        if level == Level::Open {
            return Ok(());
        }
        if self.keys.is_open() {
            return check_local(headers);
        }
        let Some(given) = given_key(headers) else {
            let message = "a key is needed: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "missing_api_key", message));
        };
        let opens = self.keys.opens(given);
        let (is_admin, is_read) = (opens.admin, opens.read);
        if bool::from(is_admin) || (level == Level::Read && bool::from(is_read)) {
            return Ok(());
        }
        if bool::from(is_read) {
            let message = "this key may read only; /admin needs an admin key";
            return Err(ApiError::new(StatusCode::FORBIDDEN, "admin_key_required", message));
        }
        Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "the key is not valid"))
    }
}

fn level_of(path: &str) -> Level {
    match path {
        "/health" | "/ready" => Level::Open,
        _ if path == "/admin" || path.starts_with("/admin/") => Level::Admin,
        _ => Level::Read,
    }
}

/// An `Authorization` of another kind, as a proxy in between may want one, is not about the server's keys.
fn given_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
    });
    bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii()))
}

/// Without keys, only programs of this machine may ask: a web page that its browser shows must not, neither
/// directly (`Origin`) nor through a name that resolves to this machine (`Host`).
fn check_local(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST);
    let origin_host = text(header::ORIGIN).map(|origin| origin.split_once("://").map_or("", |(_, host)| host));
    if host.is_none_or(is_loopback_name) && origin_host.is_none_or(is_loopback_name) {
        return Ok(());
    }
    let message =
        "without keys this server answers programs of this machine only; configure keys to ask from elsewhere";
    Err(ApiError::new(StatusCode::FORBIDDEN, "loopback_only", message))
}

#[cfg(test)]
mod tests;
