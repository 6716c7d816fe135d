//! A database of its own for each test, on the Postgres that the tests of one run share.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::config::SecretUrl;
use crawlify_shared::store::Store;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use crate::servers;
use crate::wait::wait_for;

const TEMPLATE: &str = "crawlify_template";
const WITHIN: Duration = Duration::from_secs(60);

/// An empty database with the current schema. It is dropped when this value is, at best effort.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    server: SecretUrl,
}

impl TestDatabase {
    /// Creates one. The first call of a test run starts the server and migrates the template.
    ///
    /// # Panics
    /// There is no server; the message says what to install.
    pub async fn create() -> Self {
        let server = servers::postgres().await;
        let name = format!("test_{}", uuid::Uuid::now_v7().simple());
        execute(&server, &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
            .await
            .expect("Postgres copies the template");
        Self { name, server }
    }

    /// Creates one on a server of the caller's, who may stop it.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn on(server: &SecretUrl) -> Self {
        Self::with(server, "").await
    }

    /// Creates one on a server of the caller's, with all that it holds in this folder, which belongs to the server's account. The
    /// server's log is elsewhere.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn in_folder(server: &SecretUrl, folder: &Path) -> Self {
        let place = format!("CREATE TABLESPACE apart LOCATION '{}'", folder.display());
        execute(server, &place).await.expect("Postgres takes the folder");
        Self::with(server, "TABLESPACE apart").await
    }

    async fn with(server: &SecretUrl, options: &str) -> Self {
        let name = format!("test_{}", uuid::Uuid::now_v7().simple());
        let create = format!("CREATE DATABASE {name} {options}");
        execute(server, &create).await.expect("Postgres creates a database");
        let database = Self { name, server: server.clone() };
        let store = Store::connect(&database.url(), 1).expect("the URL is valid");
        store.migrate().await.expect("the schema is made");
        store.close().await;
        database
    }

    /// Its address.
    pub fn url(&self) -> SecretUrl {
        database_of(&self.server, &self.name)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let server = self.server.clone();
        servers::clean_up(async move {
            let _ = execute(&server, &drop).await;
        });
    }
}

/// Makes a superuser on a private server of the caller's, which asks it for its password from then on, and nobody else for one.
///
/// # Errors
/// The server does not answer, its rules cannot be written, or the password does not open it.
pub async fn ask_for_password(server: &SecretUrl, role: &str, password: &str) -> Result<()> {
    execute(server, &format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{password}'")).await?;
    let options = PgConnectOptions::from_str(server.expose())?;
    let mut connection = options.connect().await?;
    let rules: String = sqlx::query_scalar("SHOW hba_file").fetch_one(&mut connection).await?;
    connection.close().await?;
    // The first rule that fits is the one that counts.
    let others = std::fs::read_to_string(&rules)?;
    std::fs::write(&rules, format!("local all {role} scram-sha-256\n{others}"))?;
    execute(server, "SELECT pg_reload_conf()").await?;
    let as_role = options.username(role);
    let wrong = as_role.clone().password("not the password");
    wait_for("Postgres asks for the password", WITHIN, async || wrong.connect().await.is_err()).await;
    as_role.password(password).connect().await?.close().await?;
    Ok(())
}

/// Starts the shared server, with a migrated template.
pub(crate) async fn start_with_template() -> Result<PrivatePostgres> {
    let postgres = PrivatePostgres::start(&Options::default()).await.context("cannot start Postgres")?;
    execute(&postgres.url(), &format!("CREATE DATABASE {TEMPLATE}")).await?;
    let store = Store::connect(&database_of(&postgres.url(), TEMPLATE), 1)?;
    store.migrate().await.context("cannot migrate the template")?;
    // A database with connections cannot be copied.
    store.close().await;
    Ok(postgres)
}

async fn execute(server: &SecretUrl, statement: &str) -> Result<()> {
    let work = async {
        let mut connection = PgConnectOptions::from_str(server.expose())?.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    };
    tokio::time::timeout(WITHIN, work).await.context("Postgres does not answer")?
}

/// The address of another database of the same server.
fn database_of(server: &SecretUrl, name: &str) -> SecretUrl {
    let (server, _) = server.expose().rsplit_once('/').expect("a Postgres URL ends with its database");
    SecretUrl::new(format!("{server}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_test_has_a_migrated_database_of_its_own_which_goes_with_it() {
        let (first, second) = (TestDatabase::create().await, TestDatabase::create().await);
        execute(&first.url(), "SELECT id FROM url_queue").await.expect("the schema is there");
        execute(&first.url(), "CREATE TABLE mine ()").await.expect("it can be changed");
        execute(&second.url(), "SELECT FROM mine").await.expect_err("another test sees nothing of it");
        let url = first.url();
        drop(first);
        execute(&url, "SELECT 1").await.expect_err("it was dropped");
    }
}
