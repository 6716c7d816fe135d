//! The command line of the browser: each flag once, with its reason. Never reads the environment.

use std::path::Path;

use crawlify_shared::config::flag_name_and_value;

/// What of traffic goes around a proxy: nothing. Chrome would otherwise reach loopback addresses without it.
pub(super) const NO_BYPASS: &str = "<-loopback>";

/// What is looked up where there is a proxy, which is at this address: nothing. Chrome leaves the names of URLs to its proxy, but would
/// ask the machine's name servers for others, such as those of TURN servers.
const NO_NAMES: &str = "MAP * ~NOTFOUND , EXCLUDE 127.0.0.1";

/// What differs between launches.
#[derive(Debug)]
pub(super) struct FlagChoices<'a> {
    /// The profile of this launch.
    pub(super) profile: &'a Path,
    /// Whether Chrome confines its renderers.
    pub(super) sandbox: bool,
    /// Whether `/dev/shm` is too small for the pictures that Chrome's processes share.
    pub(super) small_shared_memory: bool,
    /// The proxy of whatever belongs to no browser context with a proxy of its own.
    pub(super) proxy_server: Option<&'a str>,
    /// Flags from outside. One that is here already replaces ours.
    pub(super) extra: &'a [String],
}

/// Flags that are always given.
const ALWAYS: &[(&str, &str)] = &[
    // No window. Chrome's own "new" headless mode; the headless shell knows no other.
    ("headless", ""),
    // The line that we command it by; as it is no port, no page can reach it.
    ("remote-debugging-pipe", ""),
    // No welcome pages, no questions.
    ("no-first-run", ""),
    ("no-default-browser-check", ""),
    ("disable-search-engine-choice-screen", ""),
    ("noerrdialogs", ""),
    // Nothing goes out that no page asked for: updates, sync, reports, pings, experiments.
    ("disable-background-networking", ""),
    ("disable-component-update", ""),
    ("disable-sync", ""),
    ("disable-default-apps", ""),
    ("disable-extensions", ""),
    ("disable-client-side-phishing-detection", ""),
    ("disable-domain-reliability", ""),
    ("disable-field-trial-config", ""),
    ("metrics-recording-only", ""),
    ("no-pings", ""),
    // Crash reports would stay in the profile, which is thrown away. Full Chromium starts its crash handler all the
    // same, outside our process group; it goes by itself when its browser is gone. (`disable-crashpad-for-testing`
    // would prevent it, and every renderer in the sandbox too.)
    ("disable-breakpad", ""),
    ("disable-crash-reporter", ""),
    // Asks no key ring of the desktop.
    ("password-store", "basic"),
    ("mute-audio", ""),
    ("hide-scrollbars", ""),
    // One layout for every browser and machine.
    ("window-size", "1366,768"),
    ("lang", "en-US"),
    // No machine that this runs on has one, and looking for it takes time.
    ("disable-gpu", ""),
    // A tab that is not in front works as fast as the one that is.
    ("disable-background-timer-throttling", ""),
    ("disable-backgrounding-occluded-windows", ""),
    ("disable-renderer-backgrounding", ""),
    // Popups never open. Full Chromium does not know the flag; its popup blocker and our closing of targets do there.
    ("block-new-web-contents", ""),
    // A page that was left, or was not asked for, takes no memory and runs no scripts; nothing of full Chromium's looks
    // for something to do; a tab keeps its frame from page to page, which spares it a fifth of its work; and WebRTC asks no
    // neighbours for names, which would go around any proxy and is of no use where its policy gives away no addresses.
    (
        "disable-features",
        "BackForwardCache,Prerender2,Translate,MediaRouter,OptimizationHints,DialMediaRouteProvider,RenderDocument,\
            WebRtcHideLocalIpsWithMdns",
    ),
];

/// Flags that are always given; with a proxy, whatever comes from outside: there is no way around it.
const GUARDED: &[(&str, &str)] = &[
    // No UDP of WebRTC. Full Chromium and headless shell name it differently.
    ("webrtc-ip-handling-policy", "disable_non_proxied_udp"),
    ("force-webrtc-ip-handling-policy", "disable_non_proxied_udp"),
    // No QUIC, which is UDP too.
    ("disable-quic", ""),
];

/// Flags that would open another way; where there is a guard they are left out.
const OTHER_WAYS: [&str; 4] =
    ["no-proxy-server", "proxy-auto-detect", "proxy-pac-url", "remote-debugging-port"];

/// Makes the arguments, each with its two dashes.
pub(super) fn arguments(choices: &FlagChoices<'_>) -> Vec<String> {
    let mut flags = Flags(Vec::new());
    for (name, value) in ALWAYS {
        flags.set(name, value);
    }
    for (name, value) in GUARDED {
        flags.set(name, value);
    }
    flags.set("user-data-dir", &choices.profile.to_string_lossy());
    if !choices.sandbox {
        flags.set("no-sandbox", "");
    }
    if choices.small_shared_memory {
        flags.set("disable-dev-shm-usage", "");
    }
    for extra in choices.extra {
        let (name, value) = flag_name_and_value(extra);
        flags.set(name, value);
    }
    if let Some(proxy) = choices.proxy_server {
        // After those from outside, so that none of them opens a way around the guard.
        for (name, value) in GUARDED {
            flags.set(name, value);
        }
        flags.set("proxy-server", proxy);
        flags.set("proxy-bypass-list", NO_BYPASS);
        flags.set("host-resolver-rules", NO_NAMES);
        for other in OTHER_WAYS {
            flags.remove(other);
        }
    }
    flags.0.into_iter().map(|(name, value)| argument(&name, &value)).collect()
}

struct Flags(Vec<(String, String)>);

impl Flags {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            // Chrome takes only the last of these lists, so that ours would be lost.
            Some((_, list)) if name == "disable-features" => {
                list.push(',');
                list.push_str(value);
            }
            Some((_, known)) => value.clone_into(known),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }
}

fn argument(name: &str, value: &str) -> String {
    if value.is_empty() { format!("--{name}") } else { format!("--{name}={value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_is_there_once_whatever_comes_from_outside() {
        let extra = [
            "--disable-features=Foo".to_owned(),
            "mute-audio".to_owned(),
            "--host-resolver-rules=MAP *.shop.test 127.0.0.7".to_owned(),
            "----window-size=800,600".to_owned(),
            "--proxy-server=direct://".to_owned(),
            "--no-proxy-server".to_owned(),
            "--webrtc-ip-handling-policy=default".to_owned(),
        ];
        let arguments = arguments(&FlagChoices {
            profile: Path::new("/tmp/p"),
            sandbox: false,
            small_shared_memory: true,
            proxy_server: Some("127.0.0.1:9"),
            extra: &extra,
        });
        let mut names: Vec<_> = arguments.iter().map(|flag| flag.split('=').next().unwrap()).collect();
        assert!(names.iter().all(|name| name.starts_with("--") && !name.starts_with("---")));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
        assert!(has("--window-size=800,600") && has("--no-sandbox") && has("--disable-dev-shm-usage"));
        assert!(has("--webrtc-ip-handling-policy=disable_non_proxied_udp") && !has("--no-proxy-server"));
        assert!(has("--proxy-server=127.0.0.1:9") && has("--proxy-bypass-list=<-loopback>"));
        assert!(has("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"));
        assert!(arguments.iter().any(|flag| flag.ends_with("WebRtcHideLocalIpsWithMdns,Foo")));
    }
}
