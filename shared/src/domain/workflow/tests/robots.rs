//! Whether robots.txt is obeyed, and which sitemaps a crawl begins with.

use serde_json::{Value, json};

use super::*;

fn with(changes: Value) -> Value {
    let mut document = document(json!([]), json!([extract("title", json!({}))]));
    for (key, value) in changes.as_object().unwrap() {
        document["config"][key.as_str()] = value.clone();
    }
    document
}

#[test]
fn a_workflow_with_politeness_obeys_and_one_of_the_old_system_is_warned() {
    for (changes, robots) in [
        (json!({"politeness": {}}), Robots::Obey),
        (json!({"politeness": {"robots": "obey"}}), Robots::Obey),
        (json!({"politeness": {"robots": "ignore", "per": "domain"}}), Robots::Ignore),
        (json!({"politeness": null, "robots": "obey"}), Robots::Obey),
        (json!({"politeness": {"concurrency": 3}, "robots": "ignore"}), Robots::Ignore),
        (json!({"politeness": {"robots": "obey"}, "robots": "obey"}), Robots::Obey),
    ] {
        assert_eq!(parsed(&with(changes.clone())).robots, robots, "{changes}");
        assert_eq!(warnings(&with(changes.clone())), [""; 0], "{changes}");
    }
    let old = with(json!({"politeness": null}));
    assert_eq!(parsed(&old).robots, Robots::Ignore);
    assert_eq!(warnings(&old), ["robots_not_obeyed /config/politeness/robots"]);
    assert!(parsed(&old).warnings[0].message.contains("{\"robots\": \"obey\"}"));
}

#[test]
fn what_is_neither_obey_nor_ignore_is_a_problem_in_its_place() {
    for (changes, problem) in [
        (json!({"politeness": {"robots": "obay"}}), "bad_value /config/politeness/robots"),
        (json!({"politeness": {"robots": true}}), "wrong_type /config/politeness/robots"),
        (json!({"politeness": "obey"}), "wrong_type /config/politeness"),
        (json!({"politeness": null, "robots": 1}), "wrong_type /config/robots"),
        (
            json!({"politeness": {"robots": "obey"}, "robots": "ignore"}),
            "bad_value /config/politeness/robots",
        ),
    ] {
        assert_eq!(problems(&with(changes.clone())), [problem], "{changes}");
    }
    assert_eq!(
        warnings(&with(json!({"politeness": {"robot": 1}}))),
        ["unknown_setting /config/politeness/robot"]
    );
    assert!(
        message_of(&with(json!({"politeness": {"robots": "obay"}})), "bad_value").contains("did you mean")
    );
}

#[test]
fn a_crawl_is_named_beside_the_browser() {
    let named = |agent: Value| with(json!({"politeness": {"agent": agent}}));
    let agent = "ShopBot/1.0 (+https://shop.example/bot)";
    assert_eq!(parsed(&named(json!(agent))).agent.as_deref(), Some(agent));
    assert_eq!(warnings(&named(json!(agent))), [""; 0]);
    assert_eq!(parsed(&named(Value::Null)).agent, None);
    for (agent, code) in [
        (json!(""), "bad_value"),
        (json!("(odd)"), "bad_value"),
        (json!("Bot\r\nCookie: a=b"), "bad_value"),
        (json!("Böt"), "bad_value"),
        (json!("Mozilla/5.0 (compatible; ShopBot/1.0)"), "bad_value"),
        (json!("b".repeat(201)), "bad_value"),
        (json!(1), "wrong_type"),
    ] {
        assert_eq!(problems(&named(agent)), [format!("{code} /config/politeness/agent")]);
    }
    let both = with(json!({"politeness": {"agent": "ShopBot"}, "headers": {"user-agent": "Other/1.0"}}));
    assert_eq!(problems(&both), ["bad_value /config/politeness/agent"]);
}

#[test]
fn sitemaps_stand_in_for_start_urls() {
    let urls = json!(["https://shop.example/sitemap.xml", "https://shop.example/sitemap.xml#again"]);
    let workflow = parsed(&with(json!({"start_urls": null, "sitemaps": urls.clone()})));
    assert!(workflow.start_urls.is_empty() && workflow.sitemaps.urls.len() == 1);
    assert_eq!(
        problems(&with(json!({"start_urls": null, "sitemaps": []}))),
        ["no_start_url /config/start_urls"]
    );
    let beside_the_name = json!({
        "name": "n", "sitemaps": urls, "max_depth": 1, "wait_until": "load", "robots": "ignore",
        "data_extraction": [extract("title", json!({}))],
    });
    assert_eq!(parsed(&beside_the_name).sitemaps, workflow.sitemaps);
    assert_eq!(warnings(&beside_the_name), [""; 0]);
    let named = parsed(&with(json!({"politeness": {}, "sitemaps": "robots"}))).sitemaps;
    assert!(named.from_robots && named.urls.is_empty());
    for (changes, problem) in [
        (json!({"sitemaps": ["sitemap.xml", 1]}), "bad_sitemap /config/sitemaps/0"),
        (json!({"sitemaps": "https://shop.example/sitemap.xml"}), "wrong_type /config/sitemaps"),
        // The document ignores robots.txt, and so cannot take sitemaps from there.
        (json!({"sitemaps": "robots"}), "bad_value /config/sitemaps"),
        (
            json!({"start_urls": null, "politeness": {}, "sitemaps": "robots"}),
            "no_start_url /config/start_urls",
        ),
    ] {
        assert!(problems(&with(changes.clone())).contains(&problem.to_owned()), "{changes}");
    }
}
