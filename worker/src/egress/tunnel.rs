//! One tunnel of the browser: bytes both ways, which nobody between its ends can read. What can be told of them all the same is for
//! `records` and `seats` to say.

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::exchange::BUFFER_BYTES;
use super::gate::Core;
use super::policy::Destination;
use super::records::Records;

/// How long one direction of a tunnel may go on after the other has ended.
const HALF_CLOSED_FOR: Duration = Duration::from_secs(5);

/// Lets bytes through both ways; `begun` came from the browser already, which speaks first in any case.
pub(super) async fn tunnel(
    mut client: TcpStream,
    mut server: TcpStream,
    destination: &Destination,
    begun: &[u8],
    core: &Core,
) -> io::Result<()> {
    let seat = core.seats.take(destination);
    seat.send();
    server.write_all(begun).await?;
    let both_ways = async {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let mut records = Records::default();
        core.count_records(records.begun_in(begun));
        let mut up = pin!(pump(from_client, to_server, |bytes| {
            seat.send();
            core.count_sent(bytes.len());
            core.count_records(records.begun_in(bytes));
        }));
        let mut down = pin!(pump(from_server, to_client, |bytes| {
            seat.receive(bytes.len());
            core.count_received(bytes.len());
        }));
        // A server that never closes must not keep what the browser has closed.
        let rest: Pin<&mut (dyn Future<Output = io::Result<()>> + Send)> = tokio::select! {
            ended = &mut up => { ended?; down }
            ended = &mut down => { ended?; up }
        };
        tokio::time::timeout(HALF_CLOSED_FOR, rest).await.unwrap_or(Ok(()))
    };
    tokio::select! {
        ended = both_ways => ended,
        () = seat.must_give_way() => {
            tracing::debug!(%destination, "a tunnel gave way to others");
            // Reset, so that the browser does not take what has come for the whole.
            client.set_zero_linger()
        }
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut count: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        count(&buffer[..read]);
        to.write_all(&buffer[..read]).await?;
    }
}
