//! The dashboard: embedded files. It holds no data; its script fetches them from `/api`.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Path, content type and content of every file. `uplot` is uPlot 1.6.32 as its authors ship it (MIT; the licence is
/// served beside it).
const ASSETS: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("../assets/dashboard.html")),
    ("/dashboard.css", "text/css; charset=utf-8", include_str!("../assets/dashboard.css")),
    ("/base.js", SCRIPT, include_str!("../assets/base.js")),
    ("/charts.js", SCRIPT, include_str!("../assets/charts.js")),
    ("/now.js", SCRIPT, include_str!("../assets/now.js")),
    ("/pages.js", SCRIPT, include_str!("../assets/pages.js")),
    ("/rows.js", SCRIPT, include_str!("../assets/rows.js")),
    ("/skills.js", SCRIPT, include_str!("../assets/skills.js")),
    ("/serving.js", SCRIPT, include_str!("../assets/serving.js")),
    ("/dashboard.js", SCRIPT, include_str!("../assets/dashboard.js")),
    ("/uplot.js", SCRIPT, include_str!("../assets/vendor/uplot/uPlot.iife.min.js")),
    ("/uplot.css", "text/css; charset=utf-8", include_str!("../assets/vendor/uplot/uPlot.min.css")),
    ("/uplot.LICENSE", "text/plain; charset=utf-8", include_str!("../assets/vendor/uplot/LICENSE")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A route for each file.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, &(path, content_type, text)| {
        router.route(path, get(move || async move { asset(content_type, text) }))
    })
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}
