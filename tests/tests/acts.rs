//! Pages that show what they have only when something is done to them, with a real Chrome.

use std::time::Duration;

use axum::response::{Html, IntoResponse};
use harness::answering_site::{AnsweringSite, status};
use harness::postgres::TestDatabase;
use harness::program::{Program, crawlify};
use harness::scratch::Scratch;
use serde_json::{Value, json};

use crate::CRAWLIFY;
use crate::recorded::Recorded;

const WITHIN: Duration = Duration::from_secs(120);

/// Links come with each click, prices when one looks for them, and everything behind a door that is opened by a word.
const SHOP: &str = "<h1>shop</h1>
<form action=/open><input name=word></form>
<ul></ul><button>more</button><p style='margin-top: 3000px; height: 1em'></p>
<script>
  document.querySelector('button').onclick = (event) => {
    const number = document.querySelectorAll('li').length + 1;
    if (event.isTrusted) setTimeout(() => document.querySelector('ul').insertAdjacentHTML('beforeend',
      `<li><a href='book/${number}'>${number}</a></li>`), 100);
  };
  new IntersectionObserver(([entry]) => {
    if (entry.isIntersecting) entry.target.textContent = '£7';
  }).observe(document.querySelector('p'));
</script>";

#[tokio::test]
async fn a_shop_that_must_be_searched_clicked_and_scrolled_gives_what_it_has() {
    let site = AnsweringSite::start(|_, path| match path {
        "/" => Html("<h1>door</h1><form action=/shop/><input name=word></form>").into_response(),
        "/shop/?word=sesame" => Html(SHOP).into_response(),
        "/shop/book/1" | "/shop/book/2" => Html("<h1>book</h1><form><input></form>").into_response(),
        _ => status(404),
    })
    .await;
    let node =
        |id: &str, node_type: &str, params: Value| json!({"id": id, "type": node_type, "params": params});
    let workflow = json!({
        "name": "Behind a door",
        "config": {
            "start_urls": [site.url("/")],
            "max_depth": 1,
            "politeness": {"robots": "ignore"},
            "url_discovery": [
                node("word", "type", json!({"selector": "input", "text": "sesame\n"})),
                node("more", "click", json!({"selector": "button"})),
                node("one", "wait_for", json!({"selector": "li:nth-child(1)"})),
                node("again", "click", json!({"selector": "button"})),
                node("two", "wait_for", json!({"selector": "li:nth-child(2)"})),
                node("books", "extract_links", json!({"selector": "li a"})),
                node("down", "scroll", json!({"to": "bottom"})),
                node("price", "wait_for", json!({"selector": "xpath=//p[text()]"})),
            ],
            "data_extraction": [
                {"id": "title", "type": "extract", "params": {"selector": "h1"}, "output_key": "title"},
                {"id": "cost", "type": "extract", "params": {"selector": "p", "default": "none"}, "output_key": "cost"},
            ],
        },
    });
    let (scratch, database) = (Scratch::create(), TestDatabase::create().await);
    let (file, items) = (scratch.path("workflow.json"), scratch.path("items.jsonl"));
    std::fs::write(&file, workflow.to_string()).unwrap();
    let mut command = crawlify(CRAWLIFY, &scratch);
    command.arg("run").arg(&file).arg("-o").arg(&items).arg("--database-url").arg(database.url().expose());
    let _ = Program::start(command).end(WITHIN).await.with_code(0);
    assert_eq!(scratch.leftovers(), [""; 0]);

    let recorded = Recorded::open(database.url()).await;
    let asked: Vec<String> = site.requests().into_iter().map(|(path, _)| path).collect();
    assert_eq!(asked[..2], ["/", "/shop/?word=sesame"], "{asked:?}");
    let mut data: Vec<String> = std::fs::read_to_string(&items)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["data"].to_string())
        .collect();
    data.sort();
    let book = r#"{"cost":"none","title":"book"}"#;
    assert_eq!(data, [book, book, r#"{"cost":"£7","title":"shop"}"#]);
    recorded.assert_is_sound().await;
    let outputs: Vec<String> = sqlx::query_scalar(
        "SELECT n.node_type || ' ' || n.output::text FROM node_executions n JOIN url_queue q ON q.id = n.page_id
         WHERE n.node_id IN ('word', 'more', 'down') AND q.depth = 0 ORDER BY n.position",
    )
    .fetch_all(&recorded.pool)
    .await
    .unwrap();
    assert_eq!(
        outputs[..2],
        [r#"type {"typed": true, "selector": "input"}"#, r#"click {"clicked": "button"}"#]
    );
    assert!(outputs[2].starts_with(r#"scroll {"x": 0, "y": "#), "{outputs:?}");
}
