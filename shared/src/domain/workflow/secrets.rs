//! Where a configuration holds secrets, and how it is shown without them. What was shown may be sent back: then what is
//! stored takes the place of what was hidden.

use serde_json::Value;

use super::problem::{Pointer, Problem, Report};

/// What is shown in the place of a secret.
pub const HIDDEN: &str = "***";

/// The settings that hold secrets.
pub(super) const SETTINGS: [&str; 5] = ["headers", "cookies", "authentication", "proxy_config", "storage"];

/// Headers that say nothing secret. Of any other, who knows: names of headers with keys are everybody's invention.
const PLAIN_HEADERS: [&str; 8] = [
    "accept",
    "accept-language",
    "cache-control",
    "content-type",
    "dnt",
    "pragma",
    "upgrade-insecure-requests",
    "user-agent",
];

/// Whether a header says nothing secret, whatever its value.
pub fn is_plain_header(name: &str) -> bool {
    PLAIN_HEADERS.iter().any(|plain| name.eq_ignore_ascii_case(plain))
}

/// Hides every secret of a configuration.
pub fn hide_secrets(config: &mut Value) {
    visit(config, &mut |_, secret| HIDDEN.clone_into(secret));
}

/// Puts the secrets of a stored configuration where they are hidden in a new one.
///
/// # Errors
/// Every place that is hidden and has nothing stored. Pointers begin at `config`'s own place in a document, `at`.
pub fn restore_secrets(config: &mut Value, stored: &Value, at: &str) -> Result<(), Vec<Problem>> {
    let mut known = Vec::new();
    visit(&mut stored.clone(), &mut |place, secret| known.push((place.clone(), std::mem::take(secret))));
    let mut report = Report::default();
    visit(config, &mut |place, secret| {
        if secret != HIDDEN {
            return;
        }
        match known.iter().find(|(there, _)| there.name == place.name) {
            Some((_, stored)) => stored.clone_into(secret),
            None => {
                let message = format!(
                    "`{HIDDEN}` is shown in the place of a secret, and none is stored for this place: give the secret"
                );
                report.problem(&Pointer::at(at, &place.pointer), "secret_missing", message);
            }
        }
    });
    report.finish(Some(())).map(drop)
}

/// The place of a secret.
#[derive(Clone)]
struct Place {
    /// From the configuration on.
    pointer: Pointer,
    /// What makes it the same place in another version: of a cookie that is not its number.
    name: String,
}

impl Place {
    fn of(setting: &str) -> Self {
        Self { pointer: Pointer::default().key(setting), name: setting.to_owned() }
    }

    fn key(&self, key: &str) -> Self {
        Self { pointer: self.pointer.key(key), name: format!("{}\0{key}", self.name) }
    }

    fn index(&self, index: usize, name: &str) -> Self {
        Self { pointer: self.pointer.index(index), name: format!("{}\0{name}", self.name) }
    }
}

/// Shows every secret to `act`; what is no string holds none.
fn visit(config: &mut Value, act: &mut impl FnMut(&Place, &mut String)) {
    let Value::Object(members) = config else { return };
    for setting in SETTINGS {
        if let Some(value) = members.get_mut(setting) {
            strings(value, &Place::of(setting), setting, "", act);
        }
    }
}

/// Goes through the strings of a setting; `key` is the nearest name above.
fn strings(
    value: &mut Value,
    place: &Place,
    setting: &str,
    key: &str,
    act: &mut impl FnMut(&Place, &mut String),
) {
    match value {
        Value::String(text) if is_secret(setting, key, text) => act(place, text),
        Value::Array(elements) => {
            for (index, element) in elements.iter_mut().enumerate() {
                let name = identity(element).unwrap_or_else(|| index.to_string());
                strings(element, &place.index(index, &name), setting, key, act);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                strings(member, &place.key(key), setting, key, act);
            }
        }
        _ => {}
    }
}

/// A cookie is the same when name, domain and path are (RFC 6265, section 5.3).
fn identity(element: &Value) -> Option<String> {
    let member = |key: &str| element.get(key).and_then(Value::as_str).unwrap_or_default();
    element.get("name")?;
    Some(["name", "domain", "path"].map(member).join("\u{1}"))
}

fn is_secret(setting: &str, key: &str, text: &str) -> bool {
    if text.is_empty() {
        return false;
    }
    match setting {
        "headers" => !is_plain_header(key),
        "cookies" => !matches!(key, "name" | "domain" | "path" | "same_site" | "sameSite"),
        "authentication" => !matches!(key, "type" | "username"),
        // An address that holds a password is refused, unless the proxy is switched off.
        "proxy_config" => match key {
            "enabled" | "username" => false,
            "server" => text.contains('@'),
            _ => true,
        },
        "storage" => !matches!(key, "type" | "table_name" | "file_path"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config() -> Value {
        json!({
            "start_urls": ["https://shop.test/?token=of-the-url"],
            "headers": {"Authorization": "Bearer s1", "X-Api-Key": "s2", "user-agent": "me", "Accept": "*/*"},
            "cookies": [
                {"name": "a", "value": "s3", "domain": "shop.test"},
                {"name": "b", "value": "s4", "secure": true}
            ],
            "authentication": {"type": "basic", "username": "me", "password": "s5", "params": {"scope": "s6"}},
            "proxy_config": {"enabled": true, "server": "http://p.test:1", "username": "me", "password": "s7"},
            "storage": {"type": "webhook", "webhook_url": "https://hook.test/s8", "params": {"key": ["s9"]}},
        })
    }

    #[test]
    fn every_secret_is_hidden_and_nothing_else() {
        let mut shown = config();
        hide_secrets(&mut shown);
        assert_eq!(
            shown,
            json!({
                "start_urls": ["https://shop.test/?token=of-the-url"],
                "headers": {"Authorization": "***", "X-Api-Key": "***", "user-agent": "me", "Accept": "*/*"},
                "cookies": [
                    {"name": "a", "value": "***", "domain": "shop.test"},
                    {"name": "b", "value": "***", "secure": true}
                ],
                "authentication":
                    {"type": "basic", "username": "me", "password": "***", "params": {"scope": "***"}},
                "proxy_config":
                    {"enabled": true, "server": "http://p.test:1", "username": "me", "password": "***"},
                "storage": {"type": "webhook", "webhook_url": "***", "params": {"key": ["***"]}},
            })
        );
        let mut off = json!({"proxy_config": {"enabled": false, "server": "http://me:s1@p.test"}});
        hide_secrets(&mut off);
        assert_eq!(off["proxy_config"]["server"], "***");
    }

    #[test]
    fn what_was_shown_becomes_what_is_stored_again() {
        let mut sent = config();
        hide_secrets(&mut sent);
        restore_secrets(&mut sent, &config(), "/config").unwrap();
        assert_eq!(sent, config());
        // A new secret stays, and a cookie is known by its name.
        hide_secrets(&mut sent);
        sent["proxy_config"]["password"] = json!("new");
        sent["cookies"].as_array_mut().unwrap().reverse();
        restore_secrets(&mut sent, &config(), "/config").unwrap();
        assert_eq!(sent["proxy_config"]["password"], "new");
        assert_eq!(sent["cookies"][0], json!({"name": "b", "value": "s4", "secure": true}));
    }

    #[test]
    fn what_was_never_stored_cannot_be_restored() {
        let mut sent = config();
        hide_secrets(&mut sent);
        let stored = json!({"headers": {"Authorization": "Bearer s1"}});
        let problems = restore_secrets(&mut sent, &stored, "/config").unwrap_err();
        let places: Vec<_> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(
            places,
            [
                "/config/headers/X-Api-Key",
                "/config/cookies/0/value",
                "/config/cookies/1/value",
                "/config/authentication/password",
                "/config/authentication/params/scope",
                "/config/proxy_config/password",
                "/config/storage/webhook_url",
                "/config/storage/params/key/0",
            ]
        );
        assert!(problems.iter().all(|problem| problem.code == "secret_missing"));
    }

    #[test]
    fn what_is_no_configuration_has_no_secrets() {
        for mut value in [json!(null), json!([]), json!({"headers": 7, "cookies": "x", "proxy_config": []})] {
            let before = value.clone();
            hide_secrets(&mut value);
            let hidden = value["cookies"].is_string().then_some("***");
            assert_eq!(value["cookies"].as_str(), hidden);
            assert_eq!(value["headers"], before["headers"]);
        }
    }
}
