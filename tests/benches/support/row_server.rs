//! The server that people write first: each message is a row in MariaDB before it is acknowledged.
//!
//! It is built of what Forebay is built of (hyper, fastwebsockets, mysql_async, the same runtime), takes the same
//! messages and gives the same acks, and is spared what would only slow it: every WebSocket holds a database connection
//! of its own from a pool of 64, the statement is prepared once on each, and no state but the row is kept.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use bytes::Bytes;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, Pool, PoolConstraints, PoolOpts};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};

use super::process::mortal;

/// The argument that makes a benchmark's program this server; the database's URL follows.
const ARGUMENT: &str = "row-server";

/// Connections to the database.
const POOL: usize = 64;

/// The server's process; killed when it is dropped.
pub struct RowServer {
    child: Child,
    address: SocketAddr,
}

impl RowServer {
    /// Starts it and waits until it listens. The tables must be there.
    pub fn start(database: &str) -> Self {
        let mut command = mortal(&std::env::current_exe().expect("a program knows its file"));
        command.args([ARGUMENT, database]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("setpriv (util-linux) starts the server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("the server says it");
        Self { child, address: line.trim().parse().expect("the server says its address") }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RowServer {
    fn drop(&mut self) {
        // It keeps nothing; what it acknowledged is in the database.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the program was started as the server: serves until it is killed. Otherwise returns at once.
pub fn serve_if_asked() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [argument, database] = &arguments[..]
        && argument == ARGUMENT
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve(database));
    }
}

async fn serve(database: &str) {
    let opts = mysql_async::Opts::from_url(database).expect("a URL");
    let constraints = PoolConstraints::new(POOL, POOL).expect("as many as at most");
    let pool = Pool::new(
        OptsBuilder::from_opts(opts)
            .prefer_socket(false)
            .tcp_nodelay(true)
            .pool_opts(PoolOpts::new().with_constraints(constraints).with_reset_connection(false)),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has ports");
    println!("{}", listener.local_addr().expect("it is bound"));
    loop {
        let (socket, _) = listener.accept().await.expect("connections can be accepted");
        let pool = pool.clone();
        tokio::spawn(async move {
            socket.set_nodelay(true).expect("a fresh socket takes options");
            let peer = peer(&socket);
            let service = service_fn(move |request| accept(request, pool.clone(), peer.clone()));
            // A client that leaves is no fault.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await;
        });
    }
}

fn peer(socket: &TcpStream) -> String {
    socket.peer_addr().expect("it is connected").ip().to_string()
}

async fn accept(
    mut request: Request<Incoming>,
    pool: Pool,
    peer: String,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (response, upgraded) = upgrade(&mut request).expect("the client opens a WebSocket");
    tokio::spawn(async move {
        let conn = pool.get_conn().await.expect("the database is up");
        session(upgraded, conn, &peer).await;
    });
    Ok(response)
}

#[derive(Deserialize)]
struct Message<'a> {
    id: &'a str,
    seq: u64,
    time: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
    code: i32,
}

async fn session(upgraded: UpgradeFut, mut conn: Conn, peer: &str) {
    let statement = "INSERT INTO reports (id,source,seq,time,code,peer,data,accepted_at) \
        VALUES (?,0,?,?,?,?,?,UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE id=id";
    let statement = conn.prep(statement).await.expect("the table is there");
    let mut socket = FragmentCollector::new(upgraded.await.expect("the upgrade was answered"));
    while let Ok(frame) = socket.read_frame().await {
        if frame.opcode != OpCode::Text {
            break;
        }
        let message: Message<'_> = serde_json::from_slice(&frame.payload).expect("the client sends reports");
        let row = (message.id, message.seq, message.time, message.code, peer, message.data.get());
        conn.exec_drop(&statement, row).await.expect("the server takes the row");
        let (id, seq) = (message.id, message.seq);
        let ack = format!(r#"{{"op":"ack","id":"{id}","source":0,"seq":{seq},"code":200}}"#);
        if socket.write_frame(Frame::text(Payload::Owned(ack.into_bytes()))).await.is_err() {
            break;
        }
    }
}
