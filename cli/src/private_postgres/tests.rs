//! Real servers, started and stopped in every way that must work.

use super::*;

#[tokio::test]
async fn an_ephemeral_server_leaves_nothing() {
    let postgres = PrivatePostgres::start(&Options::default()).await.unwrap();
    let folder = postgres.folder().to_owned();
    assert!(folder.exists());
    println!("{} {}", postgres.description(), postgres.url());
    postgres.stop().await;
    assert!(!folder.exists());
}
