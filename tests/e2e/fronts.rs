//! The example configurations of docs/deploy for nginx and HAProxy, each before a node in the real program: TLS ends
//! there, plain requests and WebSockets go through, and nobody can claim another's address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::client::report;
use crate::support::http;
use crate::support::node::Node;
use crate::support::servers::reserve_port;
use crate::support::tls::{Own, certificate};
use crate::support::wait::{eventually, within};

/// The name that the examples serve.
const HOST: &str = "reports.example.org";
/// Where clients come from: not the proxy's own address, which is trusted.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A proxy at work; ends with the value.
struct Front {
    process: Child,
    address: SocketAddr,
    own: Own,
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Front {
    /// Runs a program with an example before `node`; `prepare` makes its file, and gives its arguments.
    async fn start(
        node: &Node,
        example: &str,
        prepare: impl FnOnce(String, &Path, SocketAddr, &Own) -> Vec<String>,
    ) -> Self {
        let (port, _reserved) = reserve_port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let own = certificate(node.folder(), "front", 2100);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy/examples").join(example);
        let text = std::fs::read_to_string(file).expect("the example is there");
        assert!(text.contains("127.0.0.1:7001"), "{text}");
        let text = text.replace("127.0.0.1:7001", &node.ingest().to_string());
        let arguments = prepare(text, node.folder(), address, &own);
        let log = std::fs::File::create(node.folder().join("front.log")).expect("a file");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&arguments).env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin");
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("setpriv runs");
        let front = Self { process, address, own };
        let serves = eventually("the proxy to serve", async || match front.connect().await {
            Ok(mut socket) => match post(&mut socket, "ready", "").await {
                200 => Ok(()),
                status => Err(format!("status {status}")),
            },
            Err(error) => Err(format!("{error}: {:?}", std::fs::read_to_string(node.folder().join("front.log")))),
        });
        serves.await;
        front
    }

    /// A connection of a client.
    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((IpAddr::from(CLIENT), 0).into())?;
        self.own.over(socket.connect(self.address).await?, self.address).await
    }
}

/// One report over a connection that is kept; the status of the answer, 0 where there is none.
async fn post(socket: &mut TlsStream<TcpStream>, id: &str, headers: &str) -> u16 {
    let body = report(id, 1, "1");
    let length = body.len();
    let request = format!("POST /reports HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
    let _ = socket.write_all(request.as_bytes()).await;
    let mut received = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let read = within("an answer", socket.read(&mut bytes)).await.unwrap_or(0);
        received.extend_from_slice(&bytes[..read]);
        match http::parse(&received) {
            Some(answer) => return answer.status,
            None if read == 0 => return 0,
            None => {}
        }
    }
}

/// One report over a WebSocket, with headers that claim to be from elsewhere.
async fn over_web_socket(front: &Front, id: &str, forged: &[(&'static str, &str)]) {
    let mut request = format!("ws://{HOST}/ws").into_client_request().expect("a request");
    for (name, value) in forged {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    let socket = front.connect().await.expect("a connection");
    let (mut socket, _) = tokio_tungstenite::client_async(request, socket).await.expect("an upgrade");
    socket.send(Message::text(report(id, 1, "1"))).await.expect("sent");
    let reply = within("an ack", socket.next()).await.expect("a reply").expect("a message");
    let reply: serde_json::Value = serde_json::from_str(reply.to_text().expect("text")).expect("JSON");
    assert_eq!((&reply["op"], &reply["code"]), (&"ack".into(), &200.into()), "{reply}");
}

/// Requests and a WebSocket through a proxy: all are from the client, whatever it claims.
async fn nobody_claims_another_address(node: &Node, front: &Front) {
    let mut socket = front.connect().await.expect("a connection");
    let forged = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n";
    assert_eq!(post(&mut socket, "plain", "").await, 200);
    assert_eq!(post(&mut socket, "forged", forged).await, 200);
    assert_eq!(post(&mut socket, "trusted", "X-Forwarded-For: 6.6.6.6, 127.0.0.1\r\n").await, 200);
    over_web_socket(front, "socket", &[("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")]).await;
    node.drained().await;
    let rows = node.stored().rows().await.expect("a sink");
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert!(rows.iter().all(|row| row.peer.as_deref() == Some("127.0.0.2")), "{rows:?}");
}

fn node(proxy: &str) -> Node {
    let node = Node::new().set("ingest.proxy", proxy).set("ingest.trusted_proxies", vec!["127.0.0.1"]);
    node.set("ingest.allowed_hosts", vec![HOST])
}

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("a file");
    file
}

#[tokio::test]
async fn the_example_for_nginx_serves_requests_and_web_sockets_and_believes_no_client() {
    let node = node("x-forwarded-for").start().await;
    let nginx = |text: String, folder: &Path, address: SocketAddr, own: &Own| {
        let text = text
            .replace("listen 443 ssl", &format!("listen {address} ssl"))
            .replace("/etc/ssl/certs/reports.example.org.pem", &own.cert.display().to_string())
            .replace("/etc/ssl/private/reports.example.org.key", &own.key.display().to_string());
        let example = written(folder, "forebay.conf", &text);
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {0}/{kind};", folder.display()));
        // One process alone: workers outlive a master that is killed.
        let around = format!(
            "daemon off; master_process off; user root; pid {0}/nginx.pid; error_log stderr;\n\
             events {{ worker_connections 64; }}\nhttp {{ access_log off; {1}\ninclude {2}; }}\n",
            folder.display(),
            temporary.join(" "),
            example.display(),
        );
        let file = written(folder, "nginx.conf", &around);
        ["nginx", "-e", "stderr", "-c", &file.display().to_string()].map(str::to_owned).into()
    };
    let front = Front::start(&node, "nginx.conf", nginx).await;
    nobody_claims_another_address(&node, &front).await;
}

#[tokio::test]
async fn the_example_for_haproxy_serves_requests_and_web_sockets_and_believes_no_client() {
    for version in ["send-proxy-v2", "send-proxy"] {
        let node = node("proxy-protocol").start().await;
        let admin = node.admin().port();
        let haproxy = |text: String, folder: &Path, address: SocketAddr, own: &Own| {
            let both = [&own.cert, &own.key].map(|file| std::fs::read_to_string(file).expect("a file")).concat();
            let both = written(folder, "both.pem", &both);
            let text = text
                .replace("maxconn 20000", "maxconn 100")
                .replace("bind :443", &format!("bind {address}"))
                .replace("/etc/ssl/private/reports.example.org.pem", &both.display().to_string())
                .replace("send-proxy-v2", version)
                .replace("port 7002", &format!("port {admin}"));
            let file = written(folder, "haproxy.cfg", &text);
            ["haproxy", "-db", "-f", &file.display().to_string()].map(str::to_owned).into()
        };
        let front = Front::start(&node, "haproxy.cfg", haproxy).await;
        nobody_claims_another_address(&node, &front).await;
    }
}
