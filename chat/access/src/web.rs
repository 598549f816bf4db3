//! The web client: files that are part of this program. They are as they are in `chat/access/web`: nothing is built.

use axum::{
    Router,
    http::{HeaderName, header},
    response::IntoResponse,
    routing::get,
};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const MANIFEST: &str = "application/manifest+json";
const SVG: &str = "image/svg+xml";

/// Scripts and styles from here only, whatever a message may contain.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self' ws: wss:; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const FILES: [(&str, &str, &str); 1] = [("/", HTML, include_str!("../web/index.html"))];

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-cache"),
];

/// A route of each file.
pub(crate) fn router() -> Router {
    let add = |router: Router, (path, kind, file): (&'static str, &'static str, &'static str)| {
        let serve = move || async move { ([(header::CONTENT_TYPE, kind)], HEADERS, file).into_response() };
        router.route(path, get(serve))
    };
    FILES.into_iter().fold(Router::new(), add)
}
