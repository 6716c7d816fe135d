//! A private RabbitMQ, and a virtual host of its own for each test.
//!
//! The server has its own home, node name, ports and epmd, so that it knows nothing of a RabbitMQ that the machine may
//! run. It is our child and dies with us, and its folder is removed with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crawlify_shared::child::ChildProcess;
use crawlify_shared::config::SecretUrl;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::held_port::HeldPort;
use crate::servers;

const USER: &str = "crawlify";
const PASSWORD: &str = "harness";
const SERVERS: &str = "/usr/lib/rabbitmq/lib";
/// A first boot takes 10 s on an idle machine of two cores.
const BOOT_WITHIN: Duration = Duration::from_secs(120);

/// A RabbitMQ server that belongs to this process.
#[derive(Debug)]
pub struct PrivateRabbitMq {
    sbin: PathBuf,
    ports: Ports,
    /// It takes long to start, and comes back at the same ports.
    _held: [HeldPort; 4],
    /// `None` while it is stopped.
    server: Option<ChildProcess>,
    /// Ours too, because one that the server starts would outlive it.
    _epmd: ChildProcess,
    folder: TempDir,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    amqp: u16,
    management: u16,
    distribution: u16,
    epmd: u16,
}

impl PrivateRabbitMq {
    /// Starts a server with an empty virtual host `/`, and returns when it accepts connections.
    ///
    /// # Errors
    /// RabbitMQ is not installed, or does not start; the error holds the end of its log.
    pub async fn start() -> Result<Self> {
        let sbin = find_sbin()?;
        let folder = tempfile::Builder::new().prefix("crawlify-rabbitmq-").tempdir()?;
        let (ports, held) = Ports::hold()?;
        for name in ["home", "mnesia", "log"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        std::fs::write(folder.path().join("plugins"), "[rabbitmq_management].\n")?;
        std::fs::write(folder.path().join("rabbitmq.conf"), configuration(ports))?;
        let mut epmd = Command::new(find_epmd()?);
        epmd.args(["-port", &ports.epmd.to_string(), "-address", "127.0.0.1"]);
        epmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let epmd = ChildProcess::spawn(epmd, None, Signal::KILL).context("cannot start epmd")?;
        let mut rabbit = Self { sbin, ports, _held: held, server: None, _epmd: epmd, folder };
        rabbit.restart().await?;
        Ok(rabbit)
    }

    /// The address of the virtual host `/`.
    pub fn url(&self) -> SecretUrl {
        self.access().url("/")
    }

    /// How the server is reached, for other processes.
    pub fn access(&self) -> Access {
        Access { amqp_port: self.ports.amqp, management_port: self.ports.management }
    }

    /// Starts it (again), with its queues as they were, and returns when it accepts connections.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        let log = std::fs::File::create(self.log())?;
        let mut command = self.command("rabbitmq-server");
        // Without this the script stays between us and the server, which would outlive it.
        command.env("RABBITMQ_ALLOW_INPUT", "true").arg("-noinput");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let server = self.server.insert(ChildProcess::spawn(command, None, Signal::KILL)?);
        let access = Access { amqp_port: self.ports.amqp, management_port: self.ports.management };
        let started = tokio::time::Instant::now();
        while !access.answers().await {
            if server.exit_status().is_some() || started.elapsed() > BOOT_WITHIN {
                self.server = None;
                bail!("RabbitMQ did not start within {:.0?}; it said:\n{}", started.elapsed(), self.said());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Stops it, deletes all that it has written, and starts it at the same ports, as after the loss of its disk.
    ///
    /// # Errors
    /// It does not start, or its folder cannot be deleted.
    pub async fn wipe(&mut self) -> Result<()> {
        self.stop().await;
        let data = self.folder.path().join("mnesia");
        std::fs::remove_dir_all(&data)?;
        std::fs::create_dir(&data)?;
        self.restart().await
    }

    /// Kills it with SIGKILL, as a crash does.
    pub async fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
            server.exited().await;
        }
    }

    /// Stops it gently, so that everything is written down; it can be restarted.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            let status = server.stop(Signal::TERM, Duration::from_secs(60)).await;
            if status.signal().is_some() {
                eprintln!("RabbitMQ had to be killed: {status}");
            }
        }
    }

    /// Freezes it (SIGSTOP), as a network that swallows everything does. [`PrivateRabbitMq::thaw`] ends it.
    pub fn freeze(&self) {
        if let Some(server) = &self.server {
            server.signal(Signal::STOP);
        }
    }

    /// Lets it run again.
    pub fn thaw(&self) {
        if let Some(server) = &self.server {
            server.signal(Signal::CONT);
        }
    }

    /// Creates a virtual host and returns its address.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn create_vhost(&self, name: &str) -> Result<SecretUrl> {
        self.access().create_vhost(name).await
    }

    /// Runs `rabbitmqctl` against this server, and returns what it printed.
    ///
    /// # Errors
    /// It failed.
    pub async fn control(&self, arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::from(self.command("rabbitmqctl"));
        let output = command.args(arguments).kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_secs(60), output).await??;
        ensure!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("out.log")
    }

    /// The end of its logs.
    fn said(&self) -> String {
        let mut said = String::new();
        let logs = std::fs::read_dir(self.folder.path().join("log")).into_iter().flatten().flatten();
        for log in logs.map(|entry| entry.path()).chain([self.log()]) {
            let text = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            said.push_str(&lines[lines.len().saturating_sub(60)..].join("\n"));
            said.push('\n');
        }
        said
    }

    /// A program of RabbitMQ's, in this server's own small world.
    fn command(&self, program: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(self.sbin.join(program));
        let path = crawlify_shared::config::variable("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("LANG", "C.UTF-8").env("HOME", folder.join("home"));
        command
            .env("RABBITMQ_NODENAME", format!("crawlify-{}@localhost", self.ports.amqp))
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("none"))
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.current_dir(folder);
        command
    }
}

impl Drop for PrivateRabbitMq {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("RabbitMQ said:\n{}", self.said());
        }
    }
}

fn configuration(ports: Ports) -> String {
    format!(
        "listeners.tcp.default = 127.0.0.1:{}\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {}\n\
         default_user = {USER}\n\
         default_pass = {PASSWORD}\n\
         disk_free_limit.absolute = 50MB\n",
        ports.amqp, ports.management
    )
}

impl Ports {
    /// Ports that are free, and what keeps others from them.
    fn hold() -> Result<(Self, [HeldPort; 4])> {
        let held = [HeldPort::take()?, HeldPort::take()?, HeldPort::take()?, HeldPort::take()?];
        let [amqp, management, distribution, epmd] = held.each_ref().map(HeldPort::number);
        Ok((Self { amqp, management, distribution, epmd }, held))
    }
}

fn find_sbin() -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(SERVERS)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("sbin"))
        .filter(|sbin| sbin.join("rabbitmq-server").exists())
        .collect();
    found.sort();
    found.pop().with_context(|| {
        format!("no RabbitMQ in {SERVERS}: install the package `rabbitmq-server` (sudo apt-get install rabbitmq-server)")
    })
}

fn find_epmd() -> Result<PathBuf> {
    let candidates = ["/usr/bin/epmd", "/usr/local/bin/epmd", "/usr/lib/erlang/bin/epmd"];
    candidates
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
        .map(Path::to_owned)
        .context("no epmd: install the package `erlang-base`, which `rabbitmq-server` needs")
}

/// How a running server is reached.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Access {
    /// Of AMQP, on 127.0.0.1.
    pub amqp_port: u16,
    /// Of the management interface, on 127.0.0.1.
    pub management_port: u16,
}

impl Access {
    /// The address of a virtual host.
    pub fn url(&self, vhost: &str) -> SecretUrl {
        let vhost = vhost.replace('/', "%2f");
        SecretUrl::new(format!("amqp://{USER}:{PASSWORD}@127.0.0.1:{}/{vhost}", self.amqp_port))
    }

    async fn answers(&self) -> bool {
        let amqp = SocketAddr::from((Ipv4Addr::LOCALHOST, self.amqp_port));
        tokio::net::TcpStream::connect(amqp).await.is_ok()
            && self.request(reqwest::Method::GET, "overview", None).await.is_ok()
    }

    /// Creates a virtual host and returns its address.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn create_vhost(&self, name: &str) -> Result<SecretUrl> {
        self.request(reqwest::Method::PUT, &format!("vhosts/{name}"), None).await?;
        let all = serde_json::json!({"configure": ".*", "write": ".*", "read": ".*"});
        self.request(reqwest::Method::PUT, &format!("permissions/{name}/{USER}"), Some(all)).await?;
        Ok(self.url(name))
    }

    /// Removes a virtual host and everything in it.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn delete_vhost(&self, name: &str) -> Result<()> {
        self.request(reqwest::Method::DELETE, &format!("vhosts/{name}"), None).await?;
        Ok(())
    }

    async fn request(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Result<reqwest::Response> {
        let url = format!("http://127.0.0.1:{}/api/{path}", self.management_port);
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        let mut request = client.request(method, url).basic_auth(USER, Some(PASSWORD));
        if let Some(body) = body {
            request = request.json(&body);
        }
        Ok(request.send().await?.error_for_status()?)
    }
}

/// A virtual host on the server that the tests of one run share. It is removed when it is dropped, at best effort.
#[derive(Debug)]
pub struct TestVhost {
    name: String,
    access: Access,
}

impl TestVhost {
    /// Creates an empty one. The first call of a test run starts the server.
    ///
    /// # Panics
    /// There is no server; the message says what to install.
    pub async fn create() -> Self {
        let access = servers::rabbitmq().await;
        let name = format!("test-{}", uuid::Uuid::now_v7().simple());
        access.create_vhost(&name).await.expect("RabbitMQ creates a virtual host");
        Self { name, access }
    }

    /// Its address.
    pub fn url(&self) -> SecretUrl {
        self.access.url(&self.name)
    }
}

impl Drop for TestVhost {
    fn drop(&mut self) {
        let (name, access) = (std::mem::take(&mut self.name), self.access);
        servers::clean_up(async move {
            let _ = access.delete_vhost(&name).await;
        });
    }
}
