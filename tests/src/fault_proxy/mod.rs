//! A TCP proxy that does to connections what networks do: cuts them, swallows what they carry, makes them slow, cuts them
//! at a certain byte, or loses the one answer that matters. Keeps what they carry for whoever wants to look at it. Knows
//! no protocol; Postgres and RabbitMQ can be put behind it.

mod recording;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crawlify_shared::config::SecretUrl;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use recording::Recording;

const CHUNK_BYTES: usize = 16 * 1024;

/// What the proxy does with everything that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Lets it through.
    Pass,
    /// Resets new connections at once.
    Refuse,
    /// Lets nothing through, and tells nobody; what is under way arrives when this is over.
    BlackHole,
    /// Lets every piece wait.
    Delay(Duration),
    /// Lets so many bytes a second through, in each direction of a connection.
    Throttle(u32),
}

/// A running proxy. Dropping it closes every connection.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    faults: Arc<Faults>,
    _tasks: JoinSet<()>,
}

/// What is behind the proxy.
#[derive(Clone, Debug)]
enum Upstream {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What the connections of a proxy read.
#[derive(Debug)]
struct Faults {
    /// Written by the test: where connections lead from now on.
    upstream: watch::Sender<Upstream>,
    /// Written by the test.
    mode: watch::Sender<Mode>,
    /// How often all connections were cut; each connection ends when this changes.
    cuts: watch::Sender<u64>,
    /// How often all connections were abandoned: those that were there then carry nothing any more.
    abandonments: watch::Sender<u64>,
    /// Written by the test, taken by the connection that it happens to.
    trap: Mutex<Option<Trap>>,
    recording: Recording,
}

/// What happens once.
#[derive(Debug)]
enum Trap {
    /// After so many bytes more, in either direction of any connection, all connections are cut.
    CutAfter(usize),
    /// The connection that sends this is cut when the answer comes, which is not passed on.
    DropReplyTo(Vec<u8>),
}

/// One connection's memory.
#[derive(Debug, Default)]
struct Connection {
    /// It has sent what a trap was set for.
    reply_is_doomed: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// How a connection ended.
enum End {
    Closed,
    Cut,
}

impl FaultProxy {
    /// Puts a Postgres behind a proxy; answers its address there.
    ///
    /// # Panics
    /// The address is none of a Postgres, or there is no port.
    pub async fn before_postgres(server: &SecretUrl) -> (Self, SecretUrl) {
        let options = PgConnectOptions::from_str(server.expose()).expect("the address of a Postgres");
        let proxy = Self::before(Upstream::of_postgres(&options)).await;
        let (user, database) = (options.get_username(), options.get_database().unwrap_or_default());
        let url = SecretUrl::new(format!("postgres://{user}@{}/{database}", proxy.address));
        (proxy, url)
    }

    /// Puts a RabbitMQ behind a proxy; answers its address there.
    ///
    /// # Panics
    /// The address is none of a RabbitMQ, or there is no port.
    pub async fn before_rabbitmq(server: &SecretUrl) -> (Self, SecretUrl) {
        let mut url = url::Url::parse(server.expose()).expect("the address of a RabbitMQ");
        let host = url.host_str().expect("it has a host");
        let proxy = Self::before(Upstream::Tcp(resolved(host, url.port().unwrap_or(5672)))).await;
        url.set_host(Some("127.0.0.1")).expect("it may have another host");
        url.set_port(Some(proxy.address.port())).expect("it may have another port");
        (proxy, SecretUrl::new(url.to_string()))
    }

    async fn before(upstream: Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let faults = Arc::new(Faults {
            upstream: watch::Sender::new(upstream),
            mode: watch::Sender::new(Mode::Pass),
            cuts: watch::Sender::new(0),
            abandonments: watch::Sender::new(0),
            trap: Mutex::new(None),
            recording: Recording::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&faults)));
        Self { address, faults, _tasks: tasks }
    }

    /// Does this from now on.
    pub fn set(&self, mode: Mode) {
        self.faults.mode.send_replace(mode);
    }

    /// Leads connections that are made from now on to another Postgres, and resets the others.
    ///
    /// # Panics
    /// The address is none of a Postgres.
    pub fn lead_to_postgres(&self, server: &SecretUrl) {
        let options = PgConnectOptions::from_str(server.expose()).expect("the address of a Postgres");
        self.faults.upstream.send_replace(Upstream::of_postgres(&options));
        self.cut();
    }

    /// Resets all connections; what comes next is a matter of the mode.
    pub fn cut(&self) {
        self.faults.cut();
    }

    /// Lets nothing through the connections of now, ever, and tells nobody, as where a machine lost its power; those that are
    /// made from now on are well.
    pub fn abandon(&self) {
        self.faults.abandonments.send_modify(|abandonments| *abandonments += 1);
    }

    /// Resets all connections after so many bytes more, of whichever of them, in either direction.
    pub fn cut_after(&self, bytes: usize) {
        *self.faults.trap() = Some(Trap::CutAfter(bytes));
    }

    /// The next connection that sends these bytes gets no answer to it: the server's answer is dropped, and the connection reset.
    pub fn drop_reply_to(&self, bytes: impl AsRef<[u8]>) {
        *self.faults.trap() = Some(Trap::DropReplyTo(bytes.as_ref().to_vec()));
    }

    /// Whether what was to happen once has happened, or has at least begun to.
    pub fn has_sprung(&self) -> bool {
        self.faults.trap().is_none()
    }

    /// Keeps all bytes that come from now on, from either side.
    pub fn record(&self) {
        self.faults.recording.begin();
    }

    /// What was kept: of each connection two texts, one for each direction.
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        self.faults.recording.streams()
    }

    /// Takes back what was to happen once; answers whether it had not happened.
    pub fn disarm(&self) -> bool {
        self.faults.trap().take().is_some()
    }
}

impl Upstream {
    fn of_postgres(options: &PgConnectOptions) -> Self {
        match options.get_socket() {
            Some(folder) => Self::Unix(folder.join(format!(".s.PGSQL.{}", options.get_port()))),
            None => Self::Tcp(resolved(options.get_host(), options.get_port())),
        }
    }
}

impl Faults {
    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    fn trap(&self) -> MutexGuard<'_, Option<Trap>> {
        self.trap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of these bytes go through before the connections are cut; `None`: all of them, and they are not.
    fn allowed(&self, bytes: usize) -> Option<usize> {
        let mut trap = self.trap();
        match &mut *trap {
            Some(Trap::CutAfter(left)) if *left <= bytes => {
                let left = *left;
                *trap = None;
                Some(left)
            }
            Some(Trap::CutAfter(left)) => {
                *left -= bytes;
                None
            }
            _ => None,
        }
    }

    /// Whether what was sent holds the text that a trap is set for, which then is taken. Keeps of it what may be the
    /// beginning of such a text.
    fn springs_at(&self, sent: &mut Vec<u8>) -> bool {
        let mut trap = self.trap();
        let Some(Trap::DropReplyTo(text)) = &*trap else {
            sent.clear();
            return false;
        };
        let is_sought = sent.windows(text.len()).any(|window| window == text.as_slice());
        let surplus = sent.len().saturating_sub(text.len());
        sent.drain(..surplus);
        if is_sought {
            *trap = None;
        }
        is_sought
    }
}

async fn serve(listener: TcpListener, faults: Arc<Faults>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let (upstream, faults) = (faults.upstream.borrow().clone(), Arc::clone(&faults));
        connections.spawn(async move {
            let _ = client.set_nodelay(true);
            if *faults.mode.borrow() == Mode::Refuse {
                return reset(client);
            }
            match upstream {
                Upstream::Tcp(address) => {
                    if let Ok(server) = TcpStream::connect(address).await {
                        let _ = server.set_nodelay(true);
                        carry(client, server, &faults).await;
                    }
                }
                Upstream::Unix(path) => {
                    if let Ok(server) = UnixStream::connect(path).await {
                        carry(client, server, &faults).await;
                    }
                }
            }
        });
    }
}

/// Carries a connection's bytes until an end closes it or it is cut.
async fn carry(mut client: TcpStream, server: impl AsyncRead + AsyncWrite, faults: &Faults) {
    let connection = Connection::default();
    let mut cuts = faults.cuts.subscribe();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = tokio::io::split(server);
    let end = tokio::select! {
        end = pump(from_client, to_server, Direction::ToServer, &connection, faults) => end,
        end = pump(from_server, to_client, Direction::ToClient, &connection, faults) => end,
        _ = cuts.changed() => Ok(End::Cut),
    };
    if matches!(end, Ok(End::Cut)) {
        reset(client);
    }
}

/// Ends a connection so that nobody takes it for an orderly end.
fn reset(client: TcpStream) {
    let _ = client.set_zero_linger();
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    connection: &Connection,
    faults: &Faults,
) -> std::io::Result<End> {
    let mut mode = faults.mode.subscribe();
    let abandonments = faults.abandonments.subscribe();
    let mut chunk = vec![0; CHUNK_BYTES];
    // What was sent, so that a text is found that came in two pieces.
    let mut sent: Vec<u8> = Vec::new();
    let mut place = None;
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return Ok(End::Closed);
        }
        faults.recording.keep(&mut place, &chunk[..read]);
        if abandonments.has_changed().unwrap_or(false) {
            return std::future::pending().await;
        }
        let now = mode.wait_for(|mode| *mode != Mode::BlackHole).await.map(|mode| *mode);
        match now.unwrap_or(Mode::Pass) {
            Mode::Delay(delay) => tokio::time::sleep(delay).await,
            Mode::Throttle(rate) => {
                tokio::time::sleep(Duration::from_secs_f64(read as f64 / f64::from(rate.max(1)))).await;
            }
            Mode::Pass | Mode::Refuse | Mode::BlackHole => {}
        }
        if let Some(allowed) = faults.allowed(read) {
            to.write_all(&chunk[..allowed]).await?;
            to.flush().await?;
            faults.cut();
            return Ok(End::Cut);
        }
        match direction {
            Direction::ToServer => {
                sent.extend_from_slice(&chunk[..read]);
                if faults.springs_at(&mut sent) {
                    connection.reply_is_doomed.store(true, Ordering::SeqCst);
                }
            }
            Direction::ToClient if connection.reply_is_doomed.load(Ordering::SeqCst) => return Ok(End::Cut),
            Direction::ToClient => {}
        }
        to.write_all(&chunk[..read]).await?;
    }
}

fn resolved(host: &str, port: u16) -> SocketAddr {
    use std::net::ToSocketAddrs;
    (host, port).to_socket_addrs().ok().and_then(|mut all| all.next()).expect("the server's host is known")
}
