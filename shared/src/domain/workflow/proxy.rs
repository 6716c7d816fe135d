//! `proxy_config`: the proxy that a workflow's author wants pages to be requested through. Its password is never shown.

use std::fmt;

use serde_json::Value;
use url::{Host, Url};

use super::problem::Report;
use super::reader::Object;
use super::secrets::HIDDEN;

/// The longest user name or password, in bytes, that every kind of proxy takes (RFC 1929, section 2).
const MAX_CREDENTIAL_BYTES: usize = 255;

/// A proxy to go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Its name or address.
    pub host: Host<String>,
    /// Its port.
    pub port: u16,
    /// What it asks for.
    pub credentials: Option<ProxyCredentials>,
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP, with `CONNECT` for everything but plain HTTP.
    Http,
    /// SOCKS version 5 (RFC 1928).
    Socks5,
}

/// A user name and a password; only the user name is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyCredentials {
    /// Who.
    pub username: String,
    /// The secret.
    pub password: String,
}

impl fmt::Debug for ProxyCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyCredentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl ProxyKind {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Socks5 => 1080,
        }
    }
}

/// Reads `proxy_config`; one that is switched off, or empty, is none.
pub(super) fn read_proxy(config: &mut Object<'_>, report: &mut Report) -> Option<Proxy> {
    let at = config.at("proxy_config");
    let value = config.value("proxy_config")?;
    let mut proxy = Object::read(value, &at, report)?;
    let is_off = proxy.value("enabled") == Some(&Value::Bool(false)) || proxy.is_empty();
    if proxy.value("enabled").is_some() && !is_off {
        proxy.flag("enabled", report);
    }
    let server = proxy.text("server", report);
    let username = proxy.text("username", report).unwrap_or_default();
    let password = proxy.text("password", report).unwrap_or_default();
    proxy.warn_of_unknown("`proxy_config`", report);
    if is_off {
        return None;
    }
    let Some(server) = server.filter(|server| !server.trim().is_empty()) else {
        let message =
            "there is no `server`: give one such as `http://proxy.example:3128`, or set `enabled` to false";
        report.problem(&proxy.at("server"), "no_proxy_server", message);
        return None;
    };
    let (kind, host, port) = match address(server.trim()) {
        Ok(address) => address,
        Err(message) => {
            // What was given is not repeated: it may hold a password.
            report.problem(&proxy.at("server"), "bad_proxy_server", message);
            return None;
        }
    };
    for (key, text) in [("username", username), ("password", password)] {
        if text.len() > MAX_CREDENTIAL_BYTES || text.chars().any(char::is_control) {
            let message = format!("it has a control character, or more than {MAX_CREDENTIAL_BYTES} bytes");
            report.problem(&proxy.at(key), "bad_proxy_credentials", message);
        }
    }
    let credentials = (!username.is_empty() || !password.is_empty())
        .then(|| ProxyCredentials { username: username.to_owned(), password: password.to_owned() });
    Some(Proxy { kind, host, port, credentials })
}

/// `SCHEME://HOST:PORT`; without a scheme it is HTTP.
fn address(server: &str) -> Result<(ProxyKind, Host<String>, u16), &'static str> {
    if server == HIDDEN {
        return Err("what is hidden here holds a user name or a password; give the address without them");
    }
    let with_scheme = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let (scheme, rest) = with_scheme.split_once("://").unwrap_or_default();
    let kind = match scheme.to_ascii_lowercase().as_str() {
        "http" => ProxyKind::Http,
        "socks5" | "socks5h" | "socks" => ProxyKind::Socks5,
        _ => return Err("the proxy's scheme is neither `http` nor `socks5`; no other is supported"),
    };
    // Read as HTTP whatever it is, so that its host is understood like every other.
    let url = Url::parse(&format!("http://{rest}"))
        .map_err(|_| "it is no address of a proxy; write it as `http://proxy.example:3128`")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a user name or a password; give them as `username` and `password`");
    }
    if url.path() != "/" || url.query().is_some() {
        return Err("it has a path; a proxy is a host and a port");
    }
    let host = url.host().ok_or("it has no host")?.to_owned();
    // The port of HTTP is left out when it is written too.
    let is_written = rest
        .trim_end_matches('/')
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let port = if is_written { url.port_or_known_default().unwrap_or(80) } else { kind.default_port() };
    Ok((kind, host, port))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::workflow::problem::Pointer;

    fn read(proxy: Value) -> (Option<Proxy>, Vec<String>) {
        let config = json!({ "proxy_config": proxy });
        let mut report = Report::default();
        let mut object = Object::read(&config, &Pointer::default(), &mut report).unwrap();
        let proxy = read_proxy(&mut object, &mut report);
        let codes = match report.finish(Some(())) {
            Ok((_, warnings)) => warnings,
            Err(problems) => problems,
        };
        (proxy, codes.into_iter().map(|problem| format!("{} {}", problem.code, problem.pointer)).collect())
    }

    #[test]
    fn a_proxy_is_read_with_its_kind_its_port_and_its_credentials() {
        for (server, kind, host, port) in [
            ("http://proxy.test:3128", ProxyKind::Http, "proxy.test", 3128),
            ("proxy.test:80", ProxyKind::Http, "proxy.test", 80),
            ("HTTP://Proxy.Test/", ProxyKind::Http, "proxy.test", 80),
            ("socks5://10.0.0.1", ProxyKind::Socks5, "10.0.0.1", 1080),
            ("socks5://[::1]:80", ProxyKind::Socks5, "[::1]", 80),
        ] {
            let (proxy, problems) = read(json!({"enabled": true, "server": server}));
            let proxy = proxy.unwrap_or_else(|| panic!("{server}: {problems:?}"));
            assert_eq!((proxy.kind, proxy.host.to_string().as_str(), proxy.port), (kind, host, port));
            assert!(problems.is_empty() && proxy.credentials.is_none());
        }
        let (proxy, _) = read(json!({"server": "p.test:1", "username": "me", "password": "hunter2"}));
        let shown = format!("{proxy:?}");
        assert!(shown.contains("me") && !shown.contains("hunter2"), "{shown}");
        assert_eq!(proxy.unwrap().credentials.unwrap().password, "hunter2");
    }

    #[test]
    fn one_that_is_off_is_none_and_a_bad_one_is_a_problem() {
        for off in [json!({"enabled": false, "server": "x"}), json!({}), json!(null)] {
            assert_eq!(read(off), (None, Vec::new()));
        }
        for (proxy, problem) in [
            (json!({"enabled": true}), "no_proxy_server /proxy_config/server"),
            (json!({"server": "https://p.test"}), "bad_proxy_server /proxy_config/server"),
            (json!({"server": "http://me:secret@p.test"}), "bad_proxy_server /proxy_config/server"),
            (json!({"server": "http://p.test/path"}), "bad_proxy_server /proxy_config/server"),
            // One with a password, which was stored switched off and is switched on as it was shown.
            (json!({"server": "***"}), "bad_proxy_server /proxy_config/server"),
            (json!({"server": "p.test", "username": "a\nb"}), "bad_proxy_credentials /proxy_config/username"),
            (json!({"server": "p.test", "enabled": "yes"}), "wrong_type /proxy_config/enabled"),
        ] {
            assert_eq!(read(proxy.clone()).1, [problem], "{proxy}");
        }
    }
}
