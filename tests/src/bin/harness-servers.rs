//! The keeper of the servers that the tests of one run share. Tests start it; see `harness::servers`.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let argument = std::env::args().nth(1).unwrap_or_default();
    harness::servers::keeper::serve(&argument).await
}
