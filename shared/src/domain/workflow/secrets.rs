//! Where a configuration holds secrets, and how it is shown without them. What was shown may be sent back: then what is
//! stored takes the place of what was hidden.

use serde_json::Value;

use super::problem::{Pointer, Problem, Report};
use crate::domain::page_url::may_hold_credentials;

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
    visit(config, &mut |_, secret| *secret = HIDDEN.into());
}

/// Puts the secrets of a stored configuration where they are hidden in a new one.
///
/// # Errors
/// Every place that is hidden and has nothing stored. Pointers begin at `config`'s own place in a document, `at`.
pub fn restore_secrets(config: &mut Value, stored: &Value, at: &str) -> Result<(), Vec<Problem>> {
    let mut known = Vec::new();
    visit(&mut stored.clone(), &mut |place, secret| known.push((place.clone(), secret.take())));
    let mut report = Report::default();
    visit(config, &mut |place, secret| {
        if secret.as_str() != Some(HIDDEN) {
            return;
        }
        match known.iter().find(|(there, _)| there.name == place.name) {
            Some((_, stored)) => secret.clone_from(stored),
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

/// Shows every secret to `act`: a string, a number, true or false that its setting does not have for something else.
fn visit(config: &mut Value, act: &mut impl FnMut(&Place, &mut Value)) {
    let Value::Object(members) = config else { return };
    for setting in SETTINGS {
        let Some(value) = members.get_mut(setting) else { continue };
        let place = Place::of(setting);
        match value {
            Value::Array(cookies) if setting == "cookies" => {
                for (index, cookie) in cookies.iter_mut().enumerate() {
                    let name = identity(cookie).unwrap_or_else(|| index.to_string());
                    settings_of(cookie, &place.index(index, &name), setting, act);
                }
            }
            // Not in the form that is known: its names may be anybody's.
            _ if setting == "cookies" => everything(value, &place, act),
            _ => settings_of(value, &place, setting, act),
        }
    }
}

/// Goes through the members of an object whose names mean what `setting` has them for.
fn settings_of(value: &mut Value, place: &Place, setting: &str, act: &mut impl FnMut(&Place, &mut Value)) {
    let Value::Object(members) = value else { return everything(value, place, act) };
    for (key, member) in members.iter_mut().filter(|(key, member)| !is_plain(setting, key, member)) {
        everything(member, &place.key(key), act);
    }
}

/// Goes through a value in which no name says what is secret.
fn everything(value: &mut Value, place: &Place, act: &mut impl FnMut(&Place, &mut Value)) {
    match value {
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        Value::String(_) | Value::Number(_) | Value::Bool(_) => act(place, value),
        Value::Array(elements) => {
            for (index, element) in elements.iter_mut().enumerate() {
                everything(element, &place.index(index, &index.to_string()), act);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                everything(member, &place.key(key), act);
            }
        }
    }
}

/// A cookie is the same when name, domain and path are (RFC 6265, section 5.3).
fn identity(cookie: &Value) -> Option<String> {
    let member = |key: &str| cookie.get(key).and_then(Value::as_str);
    member("name")?;
    Some(["name", "domain", "path"].map(|key| member(key).unwrap_or_default()).join("\u{1}"))
}

/// Whether a setting's own member says nothing secret. What is hidden is not plain either, so that it is found again.
fn is_plain(setting: &str, key: &str, value: &Value) -> bool {
    // An address that holds a password is refused, unless the proxy is switched off; nobody looks at that of a file.
    let has_no_password = || value.as_str().is_none_or(|text| text != HIDDEN && !may_hold_credentials(text));
    !value.is_array()
        && !value.is_object()
        && match setting {
            "headers" => is_plain_header(key),
            "cookies" => match key {
                "name" | "domain" | "path" | "same_site" | "sameSite" => true,
                "secure" | "http_only" | "httpOnly" => value.is_boolean(),
                "expires" => value.is_number(),
                _ => false,
            },
            "authentication" => matches!(key, "type" | "username"),
            "proxy_config" => match key {
                "enabled" | "username" => true,
                "server" => has_no_password(),
                _ => false,
            },
            "storage" => match key {
                "type" | "table_name" => true,
                "file_path" => has_no_password(),
                _ => false,
            },
            _ => false,
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
        for mut value in [json!(null), json!([]), json!({"headers": null, "cookies": "", "proxy_config": []})]
        {
            let before = value.clone();
            hide_secrets(&mut value);
            assert_eq!(value, before);
        }
        // What has not the form that is known may be a secret as a whole.
        let mut odd =
            json!({"headers": 7, "cookies": "x", "authentication": [true], "storage": [{"type": "x"}]});
        hide_secrets(&mut odd);
        assert_eq!(
            odd,
            json!({
                "headers": "***", "cookies": "***", "authentication": ["***"], "storage": [{"type": "***"}],
            })
        );
    }

    /// Secrets that are no strings, and those below names that say nothing secret elsewhere.
    fn odd_config() -> Value {
        json!({
            "cookies": [
                {"name": "pin", "value": 1, "secure": true, "httpOnly": false, "expires": 1_800_000_000},
                {"name": 2, "value": 3, "secure": "s4", "more": [{"name": "s5", "path": "s6"}]},
                {"name": 2, "value": 7},
            ],
            "authentication": {"type": "basic", "username": 8, "password": 9, "type2": {"type": "s10"}},
            "proxy_config": {"enabled": false, "server": "http://me:s11@p.test", "password": true},
            "storage": {"type": {"username": "s12"}, "params": {"type": "s13"}, "file_path": "ftp://me:s14@f.test"},
        })
    }

    #[test]
    fn a_secret_is_hidden_whatever_its_type_and_a_name_counts_only_where_the_setting_has_it() {
        let mut shown = odd_config();
        hide_secrets(&mut shown);
        assert_eq!(
            shown,
            json!({
                "cookies": [
                    {"name": "pin", "value": "***", "secure": true, "httpOnly": false, "expires": 1_800_000_000},
                    {"name": 2, "value": "***", "secure": "***", "more": [{"name": "***", "path": "***"}]},
                    {"name": 2, "value": "***"},
                ],
                "authentication": {"type": "basic", "username": 8, "password": "***", "type2": {"type": "***"}},
                "proxy_config": {"enabled": false, "server": "***", "password": "***"},
                "storage": {"type": {"username": "***"}, "params": {"type": "***"}, "file_path": "***"},
            })
        );
        restore_secrets(&mut shown, &odd_config(), "/config").unwrap();
        assert_eq!(shown, odd_config());
        // A map is not the form that cookies have, so its names are those of cookies.
        let cookies = json!({"cookies": {"path": "s1", "name": 2}});
        let mut shown = cookies.clone();
        hide_secrets(&mut shown);
        assert_eq!(shown, json!({"cookies": {"path": "***", "name": "***"}}));
        restore_secrets(&mut shown, &cookies, "/config").unwrap();
        assert_eq!(shown, cookies);
    }
}
