//! One direction of a connection.

use std::{
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::mpsc,
};

use super::{Decision, Link, Shared};

/// Bytes of one piece.
const PIECE: usize = 64 << 10;
/// Pieces under way; when there are more, the sender's window fills as over a long link.
const MAX_UNDER_WAY: usize = 64;

/// Carries bytes until the sender has no more. An error means that the connection is broken, by chance or by an end.
pub(super) async fn run(
    shared: &Shared,
    link: Link,
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
) -> io::Result<()> {
    let (pieces, under_way) = mpsc::channel(MAX_UNDER_WAY);
    tokio::try_join!(
        take(shared, link, from, pieces),
        give(shared, link, under_way, to)
    )?;
    Ok(())
}

async fn take(
    shared: &Shared,
    link: Link,
    mut from: ReadHalf<'_>,
    pieces: mpsc::Sender<(Instant, Vec<u8>)>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        let Decision::Arrive(due) = shared.decide(link, Instant::now()) else {
            return Err(ErrorKind::ConnectionReset.into());
        };
        let sent = pieces.send((due, buffer[..len].to_vec())).await;
        sent.map_err(|_| io::Error::from(ErrorKind::BrokenPipe))?;
    }
}

async fn give(
    shared: &Shared,
    link: Link,
    mut under_way: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: WriteHalf<'_>,
) -> io::Result<()> {
    while let Some((due, piece)) = under_way.recv().await {
        tokio::time::sleep_until(due.into()).await;
        shared.passable(link).await;
        to.write_all(&piece).await?;
        shared.delivered(link, piece.len());
    }
    // The end of the bytes crosses no cut either.
    shared.passable(link).await;
    to.shutdown().await
}

/// Lets the socket end with a reset and not an orderly close.
pub(super) fn reset(socket: &TcpStream) {
    // A socket that refuses is broken already.
    let _ = set_socket_linger(socket, Some(Duration::ZERO));
}
