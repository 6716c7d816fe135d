//! Real servers, started and stopped in every way that must work.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use crawlify_shared::config;
use rustix::process::{Pid, kill_process};
use sqlx::{Connection, Row};
use tempfile::TempDir;

use super::*;

/// Set in a process that a test starts to own a server and to be killed: where the server's data are to be.
const OWNER_OF: &str = "CRAWLIFY_TEST_OWNER_OF";

/// A folder that the account of Postgres can reach, as those that users choose must be.
fn open_folder() -> TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap()
}

fn persistent(folder: &TempDir) -> Options {
    Options { data_dir: Some(folder.path().join("crawlify")), ..Options::default() }
}

async fn execute(postgres: &PrivatePostgres, sql: &'static str) {
    let mut connection = sqlx::PgConnection::connect(postgres.url().expose()).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn read(postgres: &PrivatePostgres, sql: &'static str) -> String {
    let mut connection = sqlx::PgConnection::connect(postgres.url().expose()).await.unwrap();
    let value = sqlx::query(sql).fetch_one(&mut connection).await.unwrap().get(0);
    connection.close().await.unwrap();
    value
}

/// The processes that have a path below `folder` among their arguments.
fn processes_of(folder: &Path) -> Vec<String> {
    let needle = folder.to_str().unwrap();
    let arguments = |entry: fs::DirEntry| {
        let bytes = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    };
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(arguments);
    all.filter(|arguments| arguments.contains("postgres") && arguments.contains(needle)).collect()
}

async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_ephemeral_server_answers_and_leaves_nothing() {
    let postgres = PrivatePostgres::start(&Options::default()).await.unwrap();
    let folder = postgres.folder().to_owned();
    assert!(postgres.description().starts_with("Postgres 1"), "{}", postgres.description());
    assert!(postgres.description().ends_with(&format!(" private ({})", folder.display())));
    assert_eq!(
        read(&postgres, "SELECT current_user || '@' || current_database()").await,
        "crawlify@crawlify"
    );
    assert_eq!(read(&postgres, "SHOW listen_addresses").await, "");
    assert_eq!(read(&postgres, "SHOW fsync").await, "off");
    assert!(!processes_of(&folder).is_empty());
    postgres.stop().await;
    assert!(!folder.exists());
    assert_eq!(processes_of(&folder), [""; 0]);
}

#[tokio::test]
async fn a_dropped_server_leaves_nothing_either() {
    let postgres = PrivatePostgres::start(&Options::default()).await.unwrap();
    let folder = postgres.folder().to_owned();
    drop(postgres);
    assert!(!folder.exists());
    assert_eq!(processes_of(&folder), [""; 0]);
}

#[tokio::test]
async fn the_address_works_for_tokio_postgres_and_psql_too() {
    let postgres = PrivatePostgres::start(&Options::default()).await.unwrap();
    let url = postgres.url();
    let (client, connection) = tokio_postgres::connect(url.expose(), tokio_postgres::NoTls).await.unwrap();
    let answer = tokio::select! {
        rows = client.query_one("SELECT current_database()", &[]) => rows.unwrap().get::<_, String>(0),
        lost = connection => panic!("{lost:?}"),
    };
    assert_eq!(answer, "crawlify");
    drop(client);
    let psql = Command::new("psql").args(["-XAtc", "SELECT current_database()"]).arg(url.expose()).output();
    let psql = psql.expect("psql is there: apt-get install postgresql-client");
    assert_eq!(String::from_utf8_lossy(&psql.stdout).trim(), "crawlify", "{psql:?}");
    postgres.stop().await;
}

#[tokio::test]
async fn a_persistent_server_keeps_its_data_and_writes_them_safely() {
    let folder = open_folder();
    let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    assert_eq!(read(&postgres, "SHOW fsync").await, "on");
    execute(&postgres, "CREATE TABLE kept AS SELECT 'yes' AS word").await;
    postgres.stop().await;
    let started = Instant::now();
    let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(read(&postgres, "SELECT word FROM kept").await, "yes");
    postgres.stop().await;
    assert_eq!(processes_of(folder.path()), [""; 0]);
}

/// Whether a process runs or is stopped. One that has ended and was not asked for yet is not there.
fn is_there(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn a_server_that_hangs_is_gone_by_the_deadline_with_its_children_and_has_kept_what_was_committed() {
    let folder = open_folder();
    let kept = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    execute(&kept, "CREATE TABLE kept AS SELECT 'yes' AS word").await;
    let ephemeral = PrivatePostgres::start(&Options::default()).await.unwrap();
    let ephemeral_folder = ephemeral.folder().to_owned();
    for postgres in [kept, ephemeral] {
        let id = postgres.server.as_ref().unwrap().id();
        // First of all the one that starts the others.
        kill_process(Pid::from_raw(id).unwrap(), Signal::STOP).unwrap();
        let children = end::children(id);
        assert!(!children.is_empty(), "it has processes that write");
        for child in &children {
            kill_process(*child, Signal::STOP).unwrap();
        }
        let told = Instant::now();
        postgres.stop_by(tokio::time::Instant::now() + Duration::from_secs(2)).await;
        assert!(told.elapsed() < Duration::from_secs(6), "{:?}", told.elapsed());
        wait_for("its children are gone", || !children.iter().any(|child| is_there(*child))).await;
        assert_eq!(processes_of(folder.path()), [""; 0]);
    }
    assert!(!ephemeral_folder.exists());
    let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    assert_eq!(read(&postgres, "SELECT word FROM kept").await, "yes");
    postgres.stop().await;
}

#[tokio::test]
async fn a_second_start_in_the_same_folder_says_that_it_is_in_use() {
    let folder = open_folder();
    let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    let error = PrivatePostgres::start(&persistent(&folder)).await.unwrap_err();
    assert_eq!(error.exit_code(), 69);
    assert!(
        matches!(&error, StartError::AlreadyRunning { pid: Some(pid), .. } if *pid == std::process::id()),
        "{error}"
    );
    assert_eq!(read(&postgres, "SELECT 'still here'").await, "still here");
    postgres.stop().await;
}

#[tokio::test]
async fn a_stale_pid_file_is_no_obstacle() {
    let folder = open_folder();
    let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    let data = postgres.folder.data(postgres.binaries.major);
    let pid_file = data.join("postmaster.pid");
    let content = fs::read_to_string(&pid_file).unwrap();
    postgres.stop().await;
    assert!(!pid_file.exists());
    // One of a dead process, and one whose number another process has now.
    let (_, rest) = content.split_once('\n').unwrap();
    for content in [content.clone(), format!("{}\n{rest}", std::process::id())] {
        fs::write(&pid_file, content).unwrap();
        let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
        postgres.stop().await;
    }
}

#[tokio::test]
async fn data_of_a_version_that_is_not_installed_are_not_touched() {
    let folder = open_folder();
    let data = folder.path().join("crawlify/pg/99/data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("PG_VERSION"), "99\n").unwrap();
    let error = PrivatePostgres::start(&persistent(&folder)).await.unwrap_err();
    assert_eq!(error.exit_code(), 78);
    assert!(matches!(error, StartError::VersionMismatch { found: 99, .. }), "{error}");
    let text = error.to_string();
    for expected in ["postgresql-99", "pg_upgrade", "pg/NEW_MAJOR/data", "--data-dir"] {
        assert!(text.contains(expected), "{text}");
    }
    let left: Vec<_> = fs::read_dir(&data).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["PG_VERSION"]);
}

#[tokio::test]
async fn an_interrupted_creation_begins_again() {
    let folder = open_folder();
    let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    let data = postgres.folder.data(postgres.binaries.major);
    postgres.stop().await;
    fs::rename(&data, data.with_file_name("data.unfinished")).unwrap();
    let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    assert!(data.exists());
    assert!(!data.with_file_name("data.unfinished").exists());
    postgres.stop().await;
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let folder = open_folder();
    let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    let data = postgres.folder.data(postgres.binaries.major);
    postgres.stop().await;
    fs::write(data.join("postgresql.auto.conf"), "nonsense = 'here'\n").unwrap();
    let error = PrivatePostgres::start(&persistent(&folder)).await.unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    assert!(text.contains("ended while starting") && text.contains("\"nonsense\""), "{text}");
}

#[tokio::test]
async fn a_long_path_does_not_matter() {
    let folder = open_folder();
    let data_dir = folder.path().join("x".repeat(120));
    let options = Options { data_dir: Some(data_dir), ..Options::default() };
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    let short = postgres.short_folder.as_ref().unwrap().path().to_owned();
    assert_eq!(read(&postgres, "SELECT 'reached'").await, "reached");
    postgres.stop().await;
    assert!(!short.exists());
}

#[tokio::test]
async fn a_folder_closed_to_the_account_is_named_when_we_are_root() {
    let closed = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap();
    let options = Options { data_dir: Some(closed.path().join("crawlify")), ..Options::default() };
    match PrivatePostgres::start(&options).await {
        // Without root the server runs as us, who may enter.
        Ok(postgres) if !child::is_root() => postgres.stop().await,
        Ok(_) => panic!("the account must not be able to enter"),
        Err(error) => {
            assert!(child::is_root(), "{error}");
            assert_eq!(error.exit_code(), 78);
            let advice = format!("chmod o+x {}", closed.path().display());
            assert!(error.to_string().contains(&advice), "{error}");
        }
    }
}

#[tokio::test]
async fn data_move_with_the_account_when_we_are_root() {
    let folder = open_folder();
    let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    let data = postgres.folder.data(postgres.binaries.major);
    postgres.stop().await;
    let options = Options { account: Some("nobody".to_owned()), ..persistent(&folder) };
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    assert_eq!(read(&postgres, "SELECT 'still here'").await, "still here");
    // Without root there is nobody else to be.
    let expected = if child::is_root() {
        Account::find("nobody").unwrap().uid
    } else {
        rustix::process::geteuid().as_raw()
    };
    assert_eq!(fs::metadata(data.join("PG_VERSION")).unwrap().uid(), expected);
    assert_eq!(fs::metadata(folder.path()).unwrap().uid(), rustix::process::geteuid().as_raw());
    postgres.stop().await;
}

#[tokio::test]
async fn an_account_that_does_not_exist_is_named_when_we_are_root() {
    let error = choose_account(Some("no-such-account"));
    match child::is_root() {
        false => assert_eq!(error.unwrap(), None),
        true => {
            let error = error.unwrap_err();
            assert_eq!(error.exit_code(), 78);
            assert!(error.to_string().contains("`no-such-account` is none"), "{error}");
        }
    }
}

/// Runs this test again as a process of its own that owns a server, kills that, and looks at what is left.
#[tokio::test]
async fn a_killed_owner_leaves_no_server_and_the_next_start_recovers() {
    if let Some(data_dir) = config::variable(OWNER_OF) {
        own_servers_until_killed(Path::new(&data_dir)).await;
    }
    let folder = open_folder();
    let name = "private_postgres::tests::a_killed_owner_leaves_no_server_and_the_next_start_recovers";
    let (mut owner, ephemeral) = start_owner(name, &folder);
    assert!(ephemeral.exists());
    owner.kill().unwrap();
    owner.wait().unwrap();

    // At once, so that the next start meets the servers while they still stop.
    let postgres = PrivatePostgres::start(&persistent(&folder)).await.unwrap();
    assert_eq!(read(&postgres, "SELECT word FROM kept").await, "yes");
    // Another test's start may be sweeping it at this moment.
    wait_for("the killed owner's temporary folder is swept", || !ephemeral.exists()).await;
    assert_eq!(processes_of(&ephemeral), [""; 0]);
    postgres.stop().await;
    wait_for("no server left", || processes_of(folder.path()).is_empty()).await;
}

async fn own_servers_until_killed(data_dir: &Path) -> ! {
    let options = Options { data_dir: Some(data_dir.to_owned()), ..Options::default() };
    let kept = PrivatePostgres::start(&options).await.unwrap();
    execute(&kept, "CREATE TABLE kept AS SELECT 'yes' AS word").await;
    let ephemeral = PrivatePostgres::start(&Options::default()).await.unwrap();
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\nready {}", ephemeral.folder().display()).unwrap();
    stdout.flush().unwrap();
    loop {
        std::thread::park();
    }
}

/// As the one above, but nothing is started afterwards: the kernel alone must see to it.
#[tokio::test]
async fn a_killed_owner_takes_its_server_along() {
    if let Some(data_dir) = config::variable(OWNER_OF) {
        own_servers_until_killed(Path::new(&data_dir)).await;
    }
    let folder = open_folder();
    let (mut owner, ephemeral) =
        start_owner("private_postgres::tests::a_killed_owner_takes_its_server_along", &folder);
    assert!(!processes_of(folder.path()).is_empty());
    assert!(!processes_of(&ephemeral).is_empty());
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_for("the kept server is gone", || processes_of(folder.path()).is_empty()).await;
    wait_for("the ephemeral server is gone", || processes_of(&ephemeral).is_empty()).await;
    sweep(choose_account(None).unwrap().as_ref()).await;
    wait_for("the ephemeral folder is gone", || !ephemeral.exists()).await;
}

/// Runs one test in a process that owns two servers; returns it and the folder of the ephemeral one.
fn start_owner(test: &str, folder: &TempDir) -> (std::process::Child, PathBuf) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(OWNER_OF, folder.path().join("crawlify"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let ephemeral = lines.filter_map(|line| line.strip_prefix("ready ").map(PathBuf::from)).next();
    (owner, ephemeral.expect("the owner says that its servers run"))
}
