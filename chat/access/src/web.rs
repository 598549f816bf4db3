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

const FILES: [(&str, &str, &str); 38] = [
    ("/", HTML, include_str!("../web/index.html")),
    ("/actions.js", SCRIPT, include_str!("../web/actions.js")),
    ("/app.js", SCRIPT, include_str!("../web/app.js")),
    ("/banner.js", SCRIPT, include_str!("../web/banner.js")),
    ("/chat.js", SCRIPT, include_str!("../web/chat.js")),
    ("/composer.js", SCRIPT, include_str!("../web/composer.js")),
    (
        "/dialog-contact.js",
        SCRIPT,
        include_str!("../web/dialog-contact.js"),
    ),
    ("/dialog-group.js", SCRIPT, include_str!("../web/dialog-group.js")),
    ("/dialog-kept.js", SCRIPT, include_str!("../web/dialog-kept.js")),
    ("/dialog-pick.js", SCRIPT, include_str!("../web/dialog-pick.js")),
    (
        "/dialog-profile.js",
        SCRIPT,
        include_str!("../web/dialog-profile.js"),
    ),
    ("/dialogs.js", SCRIPT, include_str!("../web/dialogs.js")),
    ("/dom.js", SCRIPT, include_str!("../web/dom.js")),
    ("/icon.svg", SVG, include_str!("../web/icon.svg")),
    ("/icons.js", SCRIPT, include_str!("../web/icons.js")),
    ("/log.js", SCRIPT, include_str!("../web/log.js")),
    ("/main.js", SCRIPT, include_str!("../web/main.js")),
    (
        "/manifest.webmanifest",
        MANIFEST,
        include_str!("../web/manifest.webmanifest"),
    ),
    ("/media-view.js", SCRIPT, include_str!("../web/media-view.js")),
    ("/media.js", SCRIPT, include_str!("../web/media.js")),
    ("/needs.js", SCRIPT, include_str!("../web/needs.js")),
    ("/outbox.js", SCRIPT, include_str!("../web/outbox.js")),
    ("/protocol.js", SCRIPT, include_str!("../web/protocol.js")),
    ("/recorder.js", SCRIPT, include_str!("../web/recorder.js")),
    ("/rows.js", SCRIPT, include_str!("../web/rows.js")),
    ("/select.js", SCRIPT, include_str!("../web/select.js")),
    ("/session.js", SCRIPT, include_str!("../web/session.js")),
    ("/shared.js", SCRIPT, include_str!("../web/shared.js")),
    ("/state.js", SCRIPT, include_str!("../web/state.js")),
    ("/strings.js", SCRIPT, include_str!("../web/strings.js")),
    ("/style.css", STYLE, include_str!("../web/style.css")),
    ("/sync.js", SCRIPT, include_str!("../web/sync.js")),
    ("/text.js", SCRIPT, include_str!("../web/text.js")),
    ("/view-chat.js", SCRIPT, include_str!("../web/view-chat.js")),
    ("/view-login.js", SCRIPT, include_str!("../web/view-login.js")),
    ("/view-message.js", SCRIPT, include_str!("../web/view-message.js")),
    ("/view-sidebar.js", SCRIPT, include_str!("../web/view-sidebar.js")),
    ("/wire.js", SCRIPT, include_str!("../web/wire.js")),
];

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
