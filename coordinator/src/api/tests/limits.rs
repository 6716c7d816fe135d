//! Requests that are too large, too deep, too long or too slow.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Bytes;
use crawlify_shared::domain::bounded::{MAX_DEPTH, MAX_VALUES};
use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::api::bodies::{MAX_HELD_BYTES, MAX_HELD_VALUES, UNCOUNTED_BYTES, UNCOUNTED_VALUES};

#[tokio::test]
async fn a_body_beyond_the_limit_is_a_problem_and_one_at_the_limit_is_read() {
    for (path, limit, status) in [
        ("/api/v1/workflows", MAX_WORKFLOW_BYTES, StatusCode::UNPROCESSABLE_ENTITY),
        ("/api/v1/schedules", MAX_BODY_BYTES, StatusCode::UNPROCESSABLE_ENTITY),
        ("/api/v1/workflows/validate", MAX_WORKFLOW_BYTES, StatusCode::OK),
    ] {
        let text = |size: usize| format!("\"{}\"", "x".repeat(size - 2));
        let announced = request("POST", path).body(Body::from(text(limit + 1))).unwrap();
        // Nothing says beforehand how much will come.
        let chunks = stream::iter([text(limit + 1)].map(Ok::<_, Infallible>));
        let streamed = request("POST", path).body(Body::from_stream(chunks)).unwrap();
        for sent in [announced, streamed] {
            let (response, body) = problem(sent).await;
            assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "{path}");
            assert_eq!(body["code"], "body_too_large");
            assert!(body["detail"].as_str().unwrap().contains(&limit.to_string()), "{body}");
        }
        let at_limit = request("POST", path).body(Body::from(text(limit))).unwrap();
        assert_eq!(send(router(state()), at_limit).await.0.status(), status, "{path}");
    }
}

#[tokio::test]
async fn a_body_that_stands_for_too_much_is_a_problem_that_names_the_limit() {
    for (text, code, limit) in [
        ("[".repeat(1_000_000), "too_deep", MAX_DEPTH),
        ("{\"a\":".repeat(1_000_000), "too_deep", MAX_DEPTH),
        (format!("[{}0]", "0,".repeat(4_000_000)), "too_many_values", MAX_VALUES),
    ] {
        for path in ["/api/v1/workflows", "/api/v1/workflows/validate"] {
            let sent = request("POST", path).body(Body::from(text.clone())).unwrap();
            let (response, body) = problem(sent).await;
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
            assert_eq!(body["code"], code, "{path}");
            assert!(body["detail"].as_str().unwrap().contains(&limit.to_string()), "{body}");
        }
    }
}

#[tokio::test]
async fn large_bodies_that_stop_before_their_end_are_held_up_to_a_bound_together_and_small_ones_are_read() {
    const SENT: usize = 20;
    let path = "/api/v1/workflows/validate";
    let router = router(state());
    let nearly_all = Bytes::from(vec![b' '; MAX_WORKFLOW_BYTES - 1]);
    let kept = MAX_HELD_BYTES / (nearly_all.len() - UNCOUNTED_BYTES);
    let mut sent = JoinSet::new();
    for _ in 0..SENT {
        let begun = stream::iter([Ok::<_, Infallible>(nearly_all.clone())]).chain(stream::pending());
        let stopped = request("POST", path).body(Body::from_stream(begun)).unwrap();
        sent.spawn(send(router.clone(), stopped));
    }
    // Those for which there is no room are told so, and need not wait until the others are given up.
    for _ in kept..SENT {
        let (response, body) = sent.join_next().await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "too_many_bodies");
    }
    assert!(sent.try_join_next().is_none(), "the others are waited for");
    let status = async |size: usize| {
        let whole = format!("\"{}\"", "x".repeat(size - 2));
        let whole = request("POST", path).body(Body::from(whole)).unwrap();
        send(router.clone(), whole).await.0.status()
    };
    assert_eq!(status(UNCOUNTED_BYTES).await, StatusCode::OK);
    assert_eq!(status(MAX_WORKFLOW_BYTES).await, StatusCode::SERVICE_UNAVAILABLE);
    // Who breaks off gives the room back.
    sent.shutdown().await;
    assert_eq!(status(MAX_WORKFLOW_BYTES).await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_small_body_of_very_many_values_waits_until_there_is_room_for_them_and_others_are_read() {
    let state = state();
    let (bodies, router) = (state.bodies.clone(), router(state));
    let mut all = bodies.begin();
    all.hold_values(MAX_HELD_VALUES + UNCOUNTED_VALUES).await.unwrap();
    let answer = async |text: &str| {
        let sent = request("POST", "/api/v1/workflows/validate").body(Body::from(text.to_owned())).unwrap();
        send(router.clone(), sent).await
    };
    let dense = format!("{{\"name\":[{}1]}}", "1,".repeat(UNCOUNTED_VALUES));
    // What its aliases stand for is not seen before it is read.
    let text = r#"{"name": "x", "config": "a: &a [0]\nb: [*a,*a]\n"}"#;
    for sent in [dense.as_str(), text] {
        let (response, body) = answer(sent).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{sent}");
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "too_many_bodies");
        assert!(body["detail"].as_str().unwrap().contains(&MAX_HELD_VALUES.to_string()), "{body}");
    }
    let small = format!("{{\"name\":[{}1]}}", "1,".repeat(UNCOUNTED_VALUES - 20));
    assert_eq!(answer(&small).await.0.status(), StatusCode::OK);
    drop(all);
    for sent in [dense.as_str(), text] {
        assert_eq!(answer(sent).await.0.status(), StatusCode::OK, "{sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_holds_its_values_as_long_as_it_is_worked_on() {
    // Whoever listens there says nothing, and is waited for until the store gives up.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = SecretUrl::new(format!("postgres://nobody:sesame@{}/none", silent.local_addr().unwrap()));
    let router = router(ApiState { store: Store::connect(&url, 1).unwrap(), ..state() });
    let begun = Instant::now();
    let send = async |method: &str, path: &str, values: usize| {
        let text = format!("{{\"status\":\"active\",\"more\":[{}1]}}", "1,".repeat(values));
        let sent = request(method, path).body(Body::from(text)).unwrap();
        (send(router.clone(), sent).await.0.status(), begun.elapsed())
    };
    let path = format!("/api/v1/workflows/{ID}/status");
    let nearly_all = send("PATCH", &path, MAX_HELD_VALUES - 1000);
    let next = send("POST", "/api/v1/workflows/validate", 10 * UNCOUNTED_VALUES);
    let ((first, first_within), (second, second_within)) = tokio::join!(nearly_all, next);
    assert_eq!((first, second), (StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK));
    // The second needs no database.
    assert!(first_within >= Duration::from_secs(1), "{first_within:?}");
    assert!(second_within >= first_within, "{second_within:?}, the first one {first_within:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_waited_for_no_longer_than_its_time() {
    let endless = stream::pending::<Result<String, Infallible>>();
    let sent = request("POST", "/api/v1/workflows").body(Body::from_stream(endless)).unwrap();
    let (response, body) = problem(sent).await;
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(body["code"], "body_too_slow");
    assert!(body["detail"].as_str().unwrap().contains("20 seconds"), "{body}");
}

#[tokio::test]
async fn a_path_beyond_the_limit_is_a_problem() {
    let (response, body) = problem(
        request("GET", &format!("/api/v1/workflows?q={}", "x".repeat(4096))).body(Body::empty()).unwrap(),
    )
    .await;
    assert_eq!(response.status(), StatusCode::URI_TOO_LONG);
    assert!(body["detail"].as_str().unwrap().contains("4096 bytes"), "{body}");
}
