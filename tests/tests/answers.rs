//! What a site's answers say of its pace, with a real Chrome: how long they take, and `Retry-After`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use harness::answering_site::{AnsweringSite, ends_late, redirect};
use harness::postgres::TestDatabase;
use harness::program::{Program, crawlify};
use harness::scratch::Scratch;
use harness::wait::{wait_for, wait_for_value};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::CRAWLIFY;
use crate::recorded::Recorded;

/// How long a crawl of a few pages may take on a machine that is busy with other things.
const WITHIN: Duration = Duration::from_secs(90);
/// How long the slow site takes to answer, in milliseconds.
const TAKES_MS: u64 = 2_000;

/// A crawl that follows every link and takes the headings, with these settings besides.
fn crawl(scratch: &Scratch, database: &TestDatabase, start: &str, settings: &Value) -> Program {
    let mut config = json!({
        "start_urls": [start], "max_depth": 5, "rate_limit_delay": 0,
        "url_discovery": [{"id": "links", "type": "extract_links", "params": {"selector": "a"}}],
        "data_extraction": [
            {"id": "title", "type": "extract", "params": {"selector": "h1", "type": "text"}, "output_key": "title"}
        ]
    });
    for (name, value) in settings.as_object().unwrap() {
        config[name] = value.clone();
    }
    let file = scratch.path("answers.json");
    std::fs::write(&file, json!({"name": "Answers", "config": config}).to_string()).unwrap();
    let mut command = crawlify(CRAWLIFY, scratch);
    command.arg("run").arg(&file).arg("--database-url").arg(database.url().expose());
    // Another host.
    command.args(["--egress-allow", "127.0.0.1,127.0.0.2"]);
    Program::start(command)
}

/// Waits until a crawl has ended with this code and has said this. Every invariant holds of it then. Gives its rows.
async fn ended(running: Program, database: &TestDatabase, code: i32, said: &[&str]) -> PgPool {
    let _ = running.end(WITHIN).await.with_code(code).saying(said);
    let recorded = Recorded::open(database.url()).await;
    recorded.assert_is_sound().await;
    recorded.pool
}

async fn number(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_crawl_that_adapts_asks_a_host_no_faster_than_it_answers() {
    for render in ["full", "static"] {
        let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
        let (takes, rest) = (Duration::from_millis(TAKES_MS), Duration::from_millis(TAKES_MS + 500));
        let site = AnsweringSite::slow(takes, move |_, path| match path {
            "/" => ends_late("<h1>home</h1><a href=/1>1</a><a href=/2>2</a><a href=/3>3</a>", rest),
            _ => ends_late("<h1>leaf</h1>", rest),
        })
        .await;
        let settings = json!({"render": render, "politeness": {"adaptive": true, "robots": "ignore"}});
        let running = crawl(&scratch, &database, &site.url("/"), &settings);
        let pool = ended(running, &database, 0, &["4 completed"]).await;
        let takes = i64::try_from(TAKES_MS).unwrap();
        let latency = number(&pool, "SELECT latency_ms::int8 FROM hosts WHERE host = '127.0.0.1'").await;
        // A busy machine may make the first one, which counts most, longer. Whole pages take more than twice as long.
        assert!((takes..2 * takes).contains(&latency), "{render}: {latency} ms");
        let interval = number(&pool, "SELECT COALESCE(min_interval_ms, 0)::int8 FROM hosts").await;
        assert!(interval >= takes * 9 / 10, "{render}: two pages started within {interval} ms");
        let read = number(&pool, "SELECT count(*) FROM url_queue WHERE rendered = 'static'").await;
        assert_eq!(read, if render == "static" { 4 } else { 0 });
    }
}

#[tokio::test]
async fn how_fast_a_host_answers_is_nobodys_business_unless_a_crawl_adapts() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let site = AnsweringSite::start(|_, _| Html("<h1>home</h1>").into_response()).await;
    let running = crawl(&scratch, &database, &site.url("/"), &json!({}));
    let pool = ended(running, &database, 0, &["1 completed"]).await;
    assert_eq!(number(&pool, "SELECT latency_ms::int8 FROM hosts").await, 0);
}

/// An answer that wants the host left alone for two minutes.
fn come_later(status: u16, body: &'static str) -> Response {
    let headers = [("retry-after", "120"), ("content-type", "text/html")];
    (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
}

/// Crawls `/` of a site until its host is left alone for as long as this path has said. Answers how often that was asked.
async fn left_alone(site: &AnsweringSite, said_at: &str, settings: Value) -> usize {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let _running = crawl(&scratch, &database, &site.url("/"), &settings);
    let pool = PgPool::connect(database.url().expose()).await.unwrap();
    let query = "SELECT EXTRACT(EPOCH FROM backoff_until - now())::int8 FROM hosts
        WHERE host = '127.0.0.1' AND pace_level > 0";
    wait_for("the host is left alone", WITHIN, async || {
        let seconds: Option<i64> = sqlx::query_scalar(query).fetch_optional(&pool).await.unwrap_or_default();
        seconds.is_some_and(|seconds| {
            assert!((90..=120).contains(&seconds), "{settings}: {seconds} s");
            true
        })
    })
    .await;
    site.asked_for(said_at)
}

#[tokio::test]
async fn a_page_of_a_tab_that_says_for_how_long_its_host_wants_to_be_left_alone_is_obeyed() {
    for (status, body) in [(429, "<h1>not so fast</h1>"), (503, "")] {
        let site = AnsweringSite::start(move |_, _| come_later(status, body)).await;
        assert_eq!(left_alone(&site, "/", json!({"render": "full"})).await, 2, "once to hear for how long");
    }
}

#[tokio::test]
async fn a_static_page_that_says_for_how_long_its_host_wants_to_be_left_alone_is_obeyed() {
    for (status, body) in [(429, "<h1>not so fast</h1>"), (503, "")] {
        let site = AnsweringSite::start(move |_, _| come_later(status, body)).await;
        assert_eq!(left_alone(&site, "/", json!({"render": "static"})).await, 1);
    }
}

#[tokio::test]
async fn pages_that_share_nothing_are_obeyed_as_well_when_they_say_for_how_long() {
    let site = AnsweringSite::start(|_, _| come_later(429, "<h1>not so fast</h1>")).await;
    let settings = json!({"isolation": "page", "headers": {"User-Agent": "ShopBot/1.0"}});
    assert_eq!(left_alone(&site, "/", settings).await, 2);
    let agents = site.requests().into_iter().map(|(_, headers)| headers["user-agent"].clone());
    assert_eq!(agents.collect::<Vec<_>>(), ["ShopBot/1.0", "ShopBot/1.0"]);
}

#[tokio::test]
async fn where_a_click_leads_for_how_long_is_heard_too() {
    let click = json!([{"id": "more", "type": "click", "params": {"selector": "a"}}]);
    for isolation in ["execution", "page"] {
        let site = AnsweringSite::start(|_, path| match path {
            "/" => Html("<h1>home</h1><a href=/busy>more</a>").into_response(),
            _ => come_later(503, "<h1>busy</h1>"),
        })
        .await;
        let settings = json!({"isolation": isolation, "url_discovery": click});
        assert_eq!(left_alone(&site, "/busy", settings).await, 2);
    }
}

#[tokio::test]
async fn a_host_pays_for_no_other_to_which_it_redirects() {
    for render in ["full", "static"] {
        let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
        let other = AnsweringSite::at("127.0.0.2", |_, _| come_later(429, "<h1>not so fast</h1>")).await;
        let to = other.url("/");
        let site = AnsweringSite::start(move |_, path| match path {
            "/" => Html("<h1>home</h1><a href=/out>out</a>").into_response(),
            _ => redirect(&to),
        })
        .await;
        let running = crawl(&scratch, &database, &site.url("/"), &json!({"render": render}));
        let pool = ended(running, &database, 3, &["1 completed", "1 failed"]).await;
        assert!(other.asked_for("/") > 0, "{render}");
        let levels = number(&pool, "SELECT COALESCE(sum(pace_level), 0)::int8 FROM hosts").await;
        assert_eq!(levels, 0, "{render}");
    }
}

#[tokio::test]
async fn a_site_that_refuses_whoever_asks_too_fast_loses_no_page_and_is_asked_as_it_wants() {
    for (render, status, per_second, pages) in [
        ("full", StatusCode::TOO_MANY_REQUESTS, 4.0, 25),
        ("static", StatusCode::TOO_MANY_REQUESTS, 20.0, 160),
        // As many proxies do by default.
        ("static", StatusCode::SERVICE_UNAVAILABLE, 20.0, 160),
    ] {
        let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
        // So many requests a second, and no more than two at once.
        let bucket = Mutex::new((Instant::now(), 2.0_f64));
        let site = AnsweringSite::start(move |_, path| {
            let mut bucket = bucket.lock().unwrap();
            let (since, left) = *bucket;
            let tokens = (left + since.elapsed().as_secs_f64() * per_second).min(2.0);
            let is_served = tokens >= 1.0;
            *bucket = (Instant::now(), if is_served { tokens - 1.0 } else { tokens });
            if !is_served {
                return (status, "not so fast").into_response();
            }
            let links = (1..pages).map(|number| format!("<a href=/{number}>{number}</a>"));
            match path {
                "/" => Html(format!("<h1>home</h1>{}", links.collect::<String>())).into_response(),
                _ => Html("<h1>leaf</h1>").into_response(),
            }
        })
        .await;
        let running = crawl(&scratch, &database, &site.url("/"), &json!({"render": render}));
        ended(running, &database, 0, &[&format!("{pages} completed")]).await;
        let refused = site.requests().len() - pages;
        assert!(refused > 0, "{render}: it was asked too fast once");
        // Those that are under way together at first, twice where it does not say why, and one in thirty from then on. A tab
        // asks once more for how long.
        assert!(refused < 20 + pages / 10, "{render}, {status}: {refused} were refused");
    }
}

#[tokio::test]
async fn pages_that_hear_429_at_the_same_time_do_not_all_ask_for_how_long() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let site = AnsweringSite::slow(Duration::from_secs(2), |_, path| match path {
        "/" => Html("<h1>home</h1><a href=/1>1</a><a href=/2>2</a><a href=/3>3</a><a href=/4>4</a>")
            .into_response(),
        _ => come_later(429, "<h1>not so fast</h1>"),
    })
    .await;
    let _running = crawl(&scratch, &database, &site.url("/"), &json!({"render": "full"}));
    let pool = PgPool::connect(database.url().expose()).await.unwrap();
    // And none is in somebody's hands any more, that may still ask.
    let waiting = "SELECT CASE WHEN bool_or(status = 'processing') THEN 0
            ELSE count(*) FILTER (WHERE depth = 1 AND status = 'pending' AND rate_limit_faults = 1) END
        FROM url_queue";
    let waiting = wait_for_value("two pages were refused", WITHIN, async || {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&pool).await.unwrap_or_default();
        (waiting >= 2).then_some(waiting)
    })
    .await;
    let asked = site.requests().len() - site.asked_for("/");
    assert_eq!(i64::try_from(asked).unwrap(), waiting + 1, "one of them asked once more");
}

#[tokio::test]
async fn what_redirects_lead_to_counts_in_the_pace_of_its_host() {
    let started: &'static Mutex<Vec<Instant>> = Box::leak(Box::default());
    for render in ["full", "static"] {
        let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
        started.lock().unwrap().clear();
        let site = AnsweringSite::start(|origin, path| {
            started.lock().unwrap().push(Instant::now());
            match path.strip_prefix("/from/") {
                Some(number) => redirect(&format!("{origin}/to/{number}")),
                None if path == "/" => {
                    let links = (0..12).map(|number| format!("<a href=/from/{number}>{number}</a>"));
                    Html(format!("<h1>home</h1>{}", links.collect::<String>())).into_response()
                }
                None => Html("<h1>leaf</h1>").into_response(),
            }
        })
        .await;
        let settings = json!({"render": render, "rate_limit_delay": 400});
        let running = crawl(&scratch, &database, &site.url("/"), &settings);
        ended(running, &database, 0, &["13 completed"]).await;
        let (asked, took) = {
            let started = started.lock().unwrap();
            (started.len(), *started.last().unwrap() - started[0])
        };
        assert!(asked >= 25, "{render}: each leads somewhere");
        // Of 25 requests, less what the last pages led to: the next ones were on their way by then.
        assert!(took >= Duration::from_millis(15 * 400), "{render}: {took:?}");
    }
}

#[tokio::test]
async fn while_a_host_is_asked_for_how_long_nobody_else_asks_it() {
    for delay in [0, 100] {
        let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
        let asked: &'static Mutex<Vec<(String, Instant)>> = Box::leak(Box::default());
        let limited = AtomicUsize::new(0);
        // The question takes long to be answered. The refusal comes when the others are known.
        let takes = |path: &str, before: usize| {
            asked.lock().unwrap().push((path.to_owned(), Instant::now()));
            Duration::from_millis(if path == "/limited" { [2_000, 6_000, 200][before.min(2)] } else { 200 })
        };
        let site = AnsweringSite::taking(takes, move |_, path| match path {
            "/limited" if limited.fetch_add(1, Ordering::Relaxed) < 2 => {
                (StatusCode::TOO_MANY_REQUESTS, "not so fast").into_response()
            }
            "/" => Html("<h1>home</h1><a href=/limited>0</a><a href=/list>1</a>").into_response(),
            "/list" => {
                let links = (0..200).map(|number| format!("<a href=/{number}>{number}</a>"));
                Html(format!("<h1>list</h1>{}", links.collect::<String>())).into_response()
            }
            _ => Html("<h1>leaf</h1>").into_response(),
        })
        .await;
        let settings = json!({"render": "full", "rate_limit_delay": delay});
        let _running = crawl(&scratch, &database, &site.url("/"), &settings);
        let questioned = || {
            let asked = asked.lock().unwrap();
            asked.iter().filter(|(path, _)| path == "/limited").nth(1).map(|(_, at)| *at)
        };
        wait_for("the host is asked for how long", WITHIN, async || {
            questioned().is_some_and(|at| at.elapsed() > Duration::from_millis(5_900))
        })
        .await;
        let question = questioned().unwrap();
        let asked = asked.lock().unwrap().clone();
        let after = |at: &Instant| at.saturating_duration_since(question);
        let others = asked.iter().filter(|(path, _)| path != "/limited");
        // Those that had their start already come all the same.
        let late = others.filter(|(_, at)| (3_000..5_900).contains(&after(at).as_millis())).count();
        assert_eq!(late, 0, "delay {delay}");
        let pool = PgPool::connect(database.url().expose()).await.unwrap();
        assert!(number(&pool, "SELECT count(*) FROM url_queue").await > 200, "there were others to ask for");
    }
}

#[tokio::test]
async fn a_host_that_is_asked_rarely_is_not_asked_for_how_long() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let site = AnsweringSite::start(|_, _| come_later(429, "<h1>not so fast</h1>")).await;
    let settings = json!({"render": "full", "rate_limit_delay": 1000, "politeness": {"robots": "ignore"}});
    let _running = crawl(&scratch, &database, &site.url("/"), &settings);
    let pool = PgPool::connect(database.url().expose()).await.unwrap();
    let waiting = "SELECT count(*) FROM url_queue WHERE status = 'pending' AND rate_limit_faults = 1";
    wait_for("the page was refused", WITHIN, async || {
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&pool).await.unwrap_or_default() == 1
    })
    .await;
    assert_eq!(site.asked_for("/"), 1);
}

#[tokio::test]
async fn only_a_refusal_of_the_host_itself_makes_its_rest_longer() {
    let other = AnsweringSite::at("127.0.0.2", |_, _| come_later(429, "<h1>other</h1>")).await;
    // It serves again by then; it has another trouble; it sends whoever asks to another host.
    let answers: [fn(&str) -> Response; 3] =
        [|_| Html("<h1>home</h1>").into_response(), |_| come_later(500, "<h1>broken</h1>"), redirect];
    for (place, answer) in answers.into_iter().enumerate() {
        for isolation in ["execution", "page"] {
            let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
            let (asked, elsewhere) = (Mutex::new(0), other.url("/"));
            let site = AnsweringSite::start(move |_, _| {
                let mut asked = asked.lock().unwrap();
                *asked += 1;
                match *asked {
                    1 => (StatusCode::TOO_MANY_REQUESTS, "not so fast").into_response(),
                    2 => answer(&elsewhere),
                    _ => Html("<h1>home</h1>").into_response(),
                }
            })
            .await;
            let settings = json!({"render": "full", "isolation": isolation});
            let running = crawl(&scratch, &database, &site.url("/"), &settings);
            // Two minutes would be too long.
            ended(running, &database, 0, &["1 completed"]).await;
            assert_eq!(site.asked_for("/"), 3, "{isolation}, {place}: the page, the question, the page");
        }
    }
}

#[tokio::test]
async fn each_request_that_a_page_leads_to_costs_a_delay_and_a_new_name_costs_none() {
    for (render, start, beside) in [
        ("full", "/renames", 0),
        ("full", "/chain/3", 3),
        ("full", "/script", 2),
        ("static", "/leaf", 0),
        // Nobody tells how many there were.
        ("static", "/chain/3", 1),
    ] {
        let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
        let site = AnsweringSite::start(|_, path| match path {
            "/renames" => {
                Html("<h1>home</h1><script>history.replaceState(0, '', '/other')</script>").into_response()
            }
            "/script" => Html("<script>location = '/chain/1'</script>").into_response(),
            "/chain/3" => redirect("/chain/2"),
            "/chain/2" => redirect("/chain/1"),
            "/chain/1" => redirect("/leaf"),
            _ => Html("<h1>leaf</h1>").into_response(),
        })
        .await;
        // So long that the next start is far away when the page has ended.
        let settings =
            json!({"render": render, "rate_limit_delay": 20_000, "politeness": {"robots": "ignore"}});
        let running = crawl(&scratch, &database, &site.url(start), &settings);
        let pool = ended(running, &database, 0, &["1 completed"]).await;
        let delays = "SELECT round(EXTRACT(EPOCH FROM next_start_at - recent_starts[1]) / 20.6)::int8
            FROM hosts WHERE host = '127.0.0.1'";
        assert_eq!(number(&pool, delays).await, 1 + beside, "{render} {start}");
    }
}

#[tokio::test]
async fn a_page_that_is_not_there_starts_like_any_other_where_it_is_to_be_loaded_both_ways() {
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let site = AnsweringSite::start(|_, path| match path {
        "/" => Html("<h1>home</h1><a href=/gone/1>1</a><a href=/gone/2>2</a>").into_response(),
        _ => (StatusCode::NOT_FOUND, "gone").into_response(),
    })
    .await;
    let settings = json!({"render": "auto", "rate_limit_delay": 300, "politeness": {"robots": "ignore"}});
    let running = crawl(&scratch, &database, &site.url("/"), &settings);
    let pool = ended(running, &database, 3, &["1 completed", "2 failed"]).await;
    let starts = "SELECT cardinality(recent_starts)::int8 FROM hosts WHERE host = '127.0.0.1'";
    assert_eq!(number(&pool, starts).await, 3);
}
