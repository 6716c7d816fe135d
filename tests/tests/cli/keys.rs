//! Keys from the command line: how one is made, and when a coordinator does without or not.

use std::time::Duration;

use crawlify_coordinator::keys::{ApiKeys, NewKey, Scope};
use harness::postgres::TestDatabase;
use harness::program::{Program, crawlify};
use harness::rabbitmq::TestVhost;
use harness::scratch::Scratch;
use reqwest::StatusCode;
use rustix::process::Signal;

use super::{SHORT, ended, write};
use crate::CRAWLIFY;

/// Servers that nobody asks: what is tested is said before.
const NOWHERE: [&str; 4] =
    ["--database-url", "postgres://nobody@127.0.0.1:9/none", "--amqp-url", "amqp://nobody@127.0.0.1:9"];

#[tokio::test]
async fn a_key_goes_to_stdout_and_its_hash_to_stderr() {
    let scratch = Scratch::create();
    let made = ended(&scratch, &["keys", "create", "--scope", "admin"]).await.with_code(0);
    let key = made.stdout.strip_suffix('\n').unwrap();
    assert!(key.starts_with("crawlify_") && key.len() == 52, "{key}");
    let hash = made.stderr.lines().map(str::trim).find(|line| line.starts_with("admin:")).unwrap();
    let keys: ApiKeys = [hash.parse().unwrap()].into_iter().collect();
    assert_eq!(keys.holder(key.as_bytes()).unwrap().scope, Scope::Admin);
    assert!(!made.stderr.contains(key), "{}", made.stderr);
    let _ = ended(&scratch, &["keys", "create"]).await.with_code(2).saying(&["--scope"]);
}

#[tokio::test]
async fn without_keys_a_coordinator_does_not_listen_where_others_can_reach_it() {
    let scratch = Scratch::create();
    for host in ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"] {
        let arguments = [&["coordinator", "--port", "0", "--host", host][..], &NOWHERE].concat();
        let ended = ended(&scratch, &arguments).await.with_code(78);
        let ended =
            ended.saying(&["without API keys", "crawlify keys create", "--api-key-hash", "--api-key-file"]);
        assert!(ended.took < Duration::from_secs(5), "{:?}", ended.took);
    }
}

#[tokio::test]
async fn keys_that_are_wrong_end_a_coordinator_and_are_not_repeated() {
    let scratch = Scratch::create();
    let key = NewKey::generate(Scope::Admin).unwrap();
    let file = write(&scratch, "keys", &format!("{}\n{}\n", key.hash, key.text));
    let empty = write(&scratch, "empty", "# none yet\n");
    for (arguments, said) in [
        (["--api-key-hash", key.text.as_str()], "give its hash"),
        (["--api-key-hash", ""], "no `read:HASH` or `admin:HASH`"),
        (["--api-key-file", &file], "line 2 of the file of API keys"),
        (["--api-key-file", &empty], "holds no key"),
        (["--api-key-file", "/no/such/file"], "cannot read the file of API keys /no/such/file"),
    ] {
        let arguments = [&["coordinator", "--port", "0"][..], &arguments, &NOWHERE].concat();
        let ended = ended(&scratch, &arguments).await.with_code(78).saying(&[said]);
        assert!(!ended.stderr.contains(&key.text), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn with_keys_it_listens_everywhere_and_asks_everybody_and_one_that_was_taken_away_is_none() {
    let (scratch, database, vhost) =
        (Scratch::create(), TestDatabase::create().await, TestVhost::create().await);
    let [old, new] = [Scope::Read, Scope::Read].map(|scope| NewKey::generate(scope).unwrap());
    let client = reqwest::Client::new();
    for (hashes, is_old_known) in
        [(format!("{}\n{}\n", old.hash, new.hash), true), (new.hash.to_string(), false)]
    {
        let file = write(&scratch, "keys", &hashes);
        let mut command = crawlify(CRAWLIFY, &scratch);
        command.args(["coordinator", "--port", "0", "--host", "0.0.0.0"]).env("CRAWLIFY_API_KEY_FILE", file);
        command.arg("--database-url").arg(database.url().expose());
        command.arg("--amqp-url").arg(vhost.url().expose());
        let mut coordinator = Program::start(command);
        let ready = coordinator.says("the coordinator is ready", SHORT).await;
        let port = ready.rsplit(':').next().unwrap().trim();
        let url = format!("http://127.0.0.1:{port}/api/v1/workflows");
        let ask = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status();
        assert_eq!(ask(client.get(&url)).await, StatusCode::UNAUTHORIZED);
        assert_eq!(ask(client.get(&url).bearer_auth(&new.text)).await, StatusCode::OK);
        let known = if is_old_known { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(ask(client.get(&url).bearer_auth(&old.text)).await, known);
        coordinator.signal(Signal::TERM);
        let _ = coordinator.end(SHORT).await.with_code(0);
    }
}
