//! Keys and the rule for none.

use super::*;
use crate::options::Keys;
use axum::http::HeaderValue;

fn set(keys: &Keys) -> KeySet {
    KeySet::new(keys, None).unwrap()
}

fn access(read: &[&str], admin: &[&str]) -> Access {
    let list = |keys: &[&str]| keys.iter().map(|key| key.to_string()).collect();
    Access::new(set(&Keys { read: list(read), admin: list(admin) }), "127.0.0.1:0".parse().unwrap()).unwrap()
}

fn status(access: &Access, path: &str, headers: &[(&'static str, &str)]) -> u16 {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    access.check(path, &map).err().map_or(200, |error| error.status.as_u16())
}

#[test]
fn public_addresses_need_a_key() {
    let error = Access::new(set(&Keys::default()), "0.0.0.0:8765".parse().unwrap()).err().unwrap().to_string();
    assert!(error.contains("HONE_ADMIN_KEY"), "{error}");
    let keys = Keys { read: vec!["r".into()], admin: vec![] };
    assert!(Access::new(set(&keys), "0.0.0.0:8765".parse().unwrap()).is_ok());
    let empty = Keys { read: vec![" ".into()], admin: vec![] };
    assert!(KeySet::new(&empty, None).is_err());
}

#[test]
fn keys_have_two_levels_and_two_headers() {
    let both = access(&["reader"], &["boss", "boss2"]);
    let chat = "/v1/chat/completions";
    assert_eq!(status(&both, chat, &[]), 401);
    assert_eq!(status(&both, chat, &[("authorization", "Bearer reader")]), 200);
    assert_eq!(status(&both, chat, &[("authorization", "bearer reader")]), 200);
    assert_eq!(status(&both, chat, &[("x-api-key", "reader")]), 200);
    assert_eq!(status(&both, chat, &[("x-api-key", "boss2")]), 200);
    assert_eq!(status(&both, chat, &[("x-api-key", "reade")]), 401);
    assert_eq!(status(&both, chat, &[("authorization", "Basic reader")]), 401);
    for other in ["Basic cHJveHk6eA==", "short"] {
        assert_eq!(status(&both, chat, &[("authorization", other), ("x-api-key", "reader")]), 200, "{other}");
    }
    assert_eq!(status(&both, "/admin/rollback", &[("x-api-key", "reader")]), 403);
    assert_eq!(status(&both, "/admin/rollback", &[("x-api-key", "boss")]), 200);
    assert_eq!(status(&both, "/admin/rollback", &[("x-api-key", "stranger")]), 401);
    assert_eq!(status(&both, "/health", &[]), 200);
    assert_eq!(status(&both, "/ready", &[]), 200);
}

#[test]
fn read_keys_alone_close_the_door() {
    let readers = access(&["reader"], &[]);
    assert_eq!(status(&readers, "/admin/deployments", &[]), 401);
    assert_eq!(status(&readers, "/admin/deployments", &[("x-api-key", "reader")]), 403);
}

#[test]
fn without_keys_web_pages_are_refused() {
    let open = access(&[], &[]);
    for host in ["127.0.0.1:8765", "localhost:8765", "localhost", "[::1]:8765", "127.0.0.2"] {
        assert_eq!(status(&open, "/v1/models", &[("host", host)]), 200, "{host}");
    }
    assert_eq!(status(&open, "/v1/models", &[("host", "rebound.example:8765")]), 403);
    let page = [("host", "127.0.0.1:8765"), ("origin", "https://evil.example")];
    assert_eq!(status(&open, "/admin/rollback", &page), 403);
    let sandboxed = [("host", "127.0.0.1:8765"), ("origin", "null")];
    assert_eq!(status(&open, "/admin/rollback", &sandboxed), 403);
    let dashboard = [("host", "127.0.0.1:8765"), ("origin", "http://localhost:8088")];
    assert_eq!(status(&open, "/v1/models", &dashboard), 200);
}
