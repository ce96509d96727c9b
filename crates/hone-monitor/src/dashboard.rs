//! The dashboard: three embedded files. It holds no data; its script fetches them from `/api`.

use axum::http::header;
use axum::response::{IntoResponse, Response};

pub(crate) async fn page() -> Response {
    asset("text/html; charset=utf-8", include_str!("../assets/dashboard.html"))
}

pub(crate) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("../assets/dashboard.css"))
}

pub(crate) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("../assets/dashboard.js"))
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}
