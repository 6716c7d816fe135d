//! The table of vectors: each is a page, or an address to go to, by which a hostile site may reach another one.

/// One way to reach an address.
#[derive(Clone, Copy, Debug)]
pub struct Vector {
    /// Its name, and its page's.
    pub name: &'static str,
    /// How it is tried.
    pub way: Way,
}

/// How a vector is tried. `{canary}` is the canary's host and port, `{port}` its port, `{site}` the hostile site's host and
/// port, `{other}` the same site under another name, `{name}` the vector's name.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// This is navigated to.
    Address(&'static str),
    /// This page leaves by itself.
    Leaving(&'static str),
    /// This page stays, and says when it is done.
    Staying(&'static str),
}

const fn vector(name: &'static str, way: Way) -> Vector {
    Vector { name, way }
}

const fn page(name: &'static str, body: &'static str) -> Vector {
    Vector { name, way: Way::Staying(body) }
}

/// Every vector that ends with a connection or a datagram to an address. What only looks a name up reaches no
/// canary, guard or no guard: that is what [`super::NameServer`] is for.
pub const VECTORS: &[Vector] = &[
    vector("top_level", Way::Address("http://{canary}/")),
    vector("top_level_https", Way::Address("https://{canary}/")),
    vector("redirect_302", Way::Address("http://{site}/redirect?http://{canary}/")),
    vector("redirect_302_https", Way::Address("http://{site}/redirect?https://{canary}/")),
    vector("meta_refresh", Way::Leaving("<meta http-equiv=refresh content='0;url=http://{canary}/'>")),
    vector("refresh_header", Way::Address("http://{site}/refresh?http://{canary}/")),
    vector("js_location", Way::Leaving("<script>location = 'http://{canary}/'</script>")),
    vector("js_location_https", Way::Leaving("<script>location = 'https://{canary}/'</script>")),
    vector(
        "form_get_itself",
        Way::Leaving("<form action='http://{canary}/'></form><script>document.forms[0].submit()</script>"),
    ),
    page("iframe", "<iframe src='http://{canary}/'></iframe>"),
    page("iframe_srcdoc", "<iframe srcdoc=\"<img src='http://{canary}/'>\"></iframe>"),
    page("iframe_redirect", "<iframe src='/redirect?http://{canary}/'></iframe>"),
    page("same_site_frame_fetch", "<iframe src='http://{site}/frame?fetch&{canary}'></iframe>"),
    page("same_site_frame_img", "<iframe src='http://{site}/frame?img&{canary}'></iframe>"),
    page("same_site_frame_ws", "<iframe src='http://{site}/frame?ws&{canary}'></iframe>"),
    page("cross_site_frame_fetch", "<iframe src='http://{other}/frame?fetch&{canary}'></iframe>"),
    page("cross_site_frame_img", "<iframe src='http://{other}/frame?img&{canary}'></iframe>"),
    page("cross_site_frame_ws", "<iframe src='http://{other}/frame?ws&{canary}'></iframe>"),
    page("object", "<object data='http://{canary}/'></object>"),
    page("embed", "<embed src='http://{canary}/'>"),
    page("img", "<img src='http://{canary}/'>"),
    page("img_redirect", "<img src='/redirect?http://{canary}/'>"),
    page("img_https", "<img src='https://{canary}/'>"),
    page("svg_image", "<svg><image href='http://{canary}/'/></svg>"),
    page("css", "<link rel=stylesheet href='http://{canary}/'>"),
    page("css_import", "<style>@import 'http://{canary}/';</style>"),
    page("css_background", "<style>body { background: url(http://{canary}/) }</style>"),
    page(
        "font",
        "<style>@font-face { font-family: x; src: url(http://{canary}/) } p { font-family: x }</style><p>text",
    ),
    page("script", "<script src='http://{canary}/'></script>"),
    page("module", "<script type=module>import 'http://{canary}/'</script>"),
    page("fetch", "<script>fetch('http://{canary}/')</script>"),
    page("fetch_no_cors", "<script>fetch('http://{canary}/', { mode: 'no-cors' })</script>"),
    page("fetch_redirect", "<script>fetch('/redirect?http://{canary}/', { mode: 'no-cors' })</script>"),
    page(
        "fetch_keepalive",
        "<script>fetch('http://{canary}/', { method: 'POST', body: 'x', keepalive: true, mode: 'no-cors' })</script>",
    ),
    page(
        "xhr",
        "<script>const x = new XMLHttpRequest(); x.open('GET', 'http://{canary}/'); x.send()</script>",
    ),
    page("beacon", "<script>navigator.sendBeacon('http://{canary}/', 'x')</script>"),
    page("event_source", "<script>new EventSource('http://{canary}/')</script>"),
    page("websocket", "<script>new WebSocket('ws://{canary}/')</script>"),
    page("websocket_tls", "<script>new WebSocket('wss://{canary}/')</script>"),
    page("worker_fetch", "<script>new Worker('/worker.js?fetch&{canary}')</script>"),
    page("worker_ws", "<script>new Worker('/worker.js?ws&{canary}')</script>"),
    page("worker_import", "<script>new Worker('/worker.js?import&{canary}')</script>"),
    page(
        "blob_worker_fetch",
        "<script>new Worker(URL.createObjectURL(new Blob([\"fetch('http://{canary}/')\"])))</script>",
    ),
    page("shared_worker_fetch", "<script>new SharedWorker('/worker.js?fetch&{canary}')</script>"),
    page("shared_worker_ws", "<script>new SharedWorker('/worker.js?ws&{canary}')</script>"),
    page(
        "service_worker_fetch",
        "<script>navigator.serviceWorker.register('/worker.js?fetch&{canary}', { scope: '/{name}/' })</script>",
    ),
    page(
        "service_worker_ws",
        "<script>navigator.serviceWorker.register('/worker.js?ws&{canary}', { scope: '/{name}/' })</script>",
    ),
    page(
        "form_post_frame",
        "<iframe name=f></iframe><form method=post target=f action='http://{canary}/'></form><script>document.forms[0].submit()</script>",
    ),
    page("preload", "<link rel=preload as=image href='http://{canary}/'>"),
    page("module_preload", "<link rel=modulepreload href='http://{canary}/'>"),
    page("prefetch", "<link rel=prefetch href='http://{canary}/'>"),
    page("video", "<video src='http://{canary}/' preload=auto autoplay muted></video>"),
    page("audio", "<audio src='http://{canary}/' preload=auto></audio>"),
    page(
        "webrtc_stun",
        "<script>const p = new RTCPeerConnection({ iceServers: [{ urls: 'stun:{canary}' }] });\
        p.createDataChannel('x'); p.createOffer().then((o) => p.setLocalDescription(o))</script>",
    ),
    page(
        "webrtc_turn_tcp",
        "<script>const p = new RTCPeerConnection({ iceServers: [{ urls: 'turn:{canary}?transport=tcp',\
        username: 'x', credential: 'x' }] }); p.createDataChannel('x'); p.createOffer().then((o) => p.setLocalDescription(o))</script>",
    ),
    page("form_hex", "<img src='http://0x7f.1:{port}/'>"),
    page("form_decimal", "<img src='http://2130706433:{port}/'>"),
    page("form_octal", "<img src='http://0177.0.0.1:{port}/'>"),
    page("form_short", "<img src='http://127.1:{port}/'>"),
    page("form_full_width", "<img src='http://①②⑦.0.0.1:{port}/'>"),
    page("form_localhost", "<img src='http://localhost:{port}/'>"),
    page("form_localhost_dot", "<img src='http://localhost.:{port}/'>"),
    page("form_subdomain_of_localhost", "<img src='http://a.localhost:{port}/'>"),
    page("form_mapped", "<img src='http://[::ffff:127.0.0.1]:{port}/'>"),
    page("form_unspecified", "<img src='http://0.0.0.0:{port}/'>"),
    page("form_mapped_ws", "<script>new WebSocket('ws://[::ffff:127.0.0.1]:{port}/')</script>"),
    page("popup", "<script>window.open('http://{canary}/')</script>"),
    page(
        "form_post_blank",
        "<form method=post target=_blank action='http://{canary}/'></form><script>document.forms[0].submit()</script>",
    ),
    page(
        "link_blank",
        "<a target=_blank rel=noopener href='http://{canary}/'>x</a><script>document.querySelector('a').click()</script>",
    ),
    page(
        "link_ping",
        "<a ping='http://{canary}/' href='#x'>x</a><script>document.querySelector('a').click()</script>",
    ),
    page("favicon", "<link rel=icon href='http://{canary}/'>"),
    page("webtransport", "<script>new WebTransport('https://{canary}/')</script>"),
    page(
        "speculation_prefetch",
        "<script type=speculationrules>{\"prefetch\": [{\"urls\": [\"http://{canary}/\"], \"eagerness\": \"immediate\"}]}</script>",
    ),
    page("preconnect", "<link rel=preconnect href='http://{canary}/'>"),
];

/// Those that reach nothing in the headless shell, guard or no guard, in the order of the table: popups never open there, without a
/// window there is no place for an icon, and nothing is connected to ahead of its time.
pub const DEAD_IN_HEADLESS_SHELL: &[&str] =
    &["popup", "form_post_blank", "link_blank", "favicon", "preconnect"];

/// Those that reach nothing in the full browser, guard or no guard, as it was seen in Chromium 156; our flags forbid its pings, and
/// in contexts that keep nothing, as ours are, it connects to nothing ahead of its time. Its videos are live now and then.
pub const DEAD_IN_FULL_BROWSER: &[&str] =
    &["video", "audio", "link_ping", "speculation_prefetch", "preconnect"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_but_one_is_live_in_one_of_both_browsers() {
        let is_dead = |name: &&str| DEAD_IN_FULL_BROWSER.contains(name);
        let dead_in_both: Vec<_> = DEAD_IN_HEADLESS_SHELL.iter().copied().filter(is_dead).collect();
        assert_eq!(dead_in_both, ["preconnect"]);
    }
}
