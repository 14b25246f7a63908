//! A headless Chromium of its own, driven over WebDriver: clicks and keys as a person gives them, and what the browser
//! has logged. WebDriver is JSON over HTTP, so the tests' own client speaks it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::support::http::{self, Answer};
use crate::support::wait::{eventually, within};

/// A port that is free on both loopback addresses. Asked for port 0, chromedriver takes one that `::1` has free and
/// ends where another socket has the same on `127.0.0.1`. These are below those that the kernel hands out, so no socket
/// of another test is on them; each process begins elsewhere.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).expect("below 10,000");
    let mut ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed));
    let free = |port: &u16| {
        let six = TcpListener::bind((Ipv6Addr::LOCALHOST, *port));
        six.is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
    };
    ports.find(free).expect("ports without an end")
}

/// A browser with one page. Dropping it ends all its processes.
pub struct Browser {
    address: SocketAddr,
    session: String,
    namespace: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// A browser with an empty profile.
    pub async fn start() -> Self {
        let profile = tempfile::Builder::new().prefix("chromium-").tempdir().expect("a folder for the browser");
        // In a namespace of their own, driver and browser end together, however the test ends. HOME: not the user's.
        let mut namespace = Command::new("setpriv");
        namespace.args(["--pdeathsig", "KILL", "--", "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]);
        namespace
            .args(["chromedriver", &format!("--port={}", free_port())])
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path());
        namespace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut namespace = namespace.spawn().expect("setpriv and unshare (util-linux) run");
        let mut lines = BufReader::new(namespace.stdout.take().expect("stdout is piped")).lines();
        let port = within("chromedriver to say its port", async {
            let mut said = String::new();
            while let Some(line) = lines.next_line().await.expect("lines of text") {
                said = said + &line + "\n";
                let port = line.split_once("started successfully on port ").map(|(_, port)| port);
                if let Some(port) = port {
                    return port.trim_end_matches('.').parse().expect("a port");
                }
            }
            panic!("chromedriver (chromium-driver) is installed, and starts as root; it said: {said}");
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.await));
        let folder = format!("--user-data-dir={}", profile.path().join("profile").display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &folder,
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let session = call(address, "POST", "/session", &capabilities).await.expect("a session");
        let session = format!("/session/{}", session["sessionId"].as_str().expect("a session's name"));
        let browser = Self { address, session, namespace, _profile: profile };
        browser.resize(1280, 900).await;
        browser
    }

    /// Opens a page.
    pub async fn open(&self, admin: SocketAddr, hash: &str) {
        let url = json!({"url": format!("http://{admin}/{hash}")});
        self.call("POST", "/url", url).await.expect("the page opens");
    }

    /// The size that the page has, in CSS pixels.
    pub async fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// What the page sees as the user's colour scheme: `light` or `dark`.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// The value of a script that returns one.
    pub async fn script(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", json!({"script": script, "args": []})).await.expect("the script runs")
    }

    /// Clicks what the selector finds first, once it is there and nothing covers it.
    pub async fn click(&self, selector: &str) {
        self.click_by("css selector", selector).await;
    }

    /// Clicks the button with this text, once it is there.
    pub async fn press(&self, label: &str) {
        self.click_by("xpath", &format!("//button[normalize-space()='{label}'][not(ancestor::*[@hidden])]")).await;
    }

    async fn click_by(&self, using: &str, value: &str) {
        let what = format!("{value} to be clicked");
        let clicked = eventually(&what, async || {
            let element = self.element(using, value).await?;
            self.call("POST", &format!("{element}/click"), json!({})).await
        });
        clicked.await;
    }

    /// Gives keys to what the selector finds.
    pub async fn type_into(&self, selector: &str, keys: &str) {
        let element = self.element("css selector", selector).await.expect("it is there");
        self.call("POST", &format!("{element}/value"), json!({"text": keys})).await.expect("it takes keys");
    }

    /// Gives keys to what has the focus.
    pub async fn keys(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|stroke| json!({"type": stroke, "value": key})))
            .collect();
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]});
        self.call("POST", "/actions", actions).await.expect("keys can be pressed");
    }

    /// The text of what the selector finds, as it is shown.
    pub async fn text(&self, selector: &str) -> Result<String, String> {
        let element = self.element("css selector", selector).await?;
        let text = self.call("GET", &format!("{element}/text"), Value::Null).await?;
        Ok(text.as_str().expect("a text").to_owned())
    }

    /// The texts of all that the selector finds.
    pub async fn texts(&self, selector: &str) -> Vec<String> {
        let script = format!("return [...document.querySelectorAll({})].map((e) => e.textContent)", json!(selector));
        serde_json::from_value(self.script(&script).await).expect("a list of texts")
    }

    /// Waits until what the selector finds shows a text with `part` in it.
    pub async fn shows(&self, selector: &str, part: &str) {
        let what = format!("{selector} to show {part:?}");
        let shown = eventually(&what, async || {
            let text = self.text(selector).await?;
            if text.contains(part) { Ok(()) } else { Err(format!("it shows {text:?}")) }
        });
        shown.await;
    }

    /// What the console has in it since it was last asked for: errors and warnings.
    pub async fn console(&self) -> Vec<String> {
        let lines = self.log("browser").await;
        let lines = lines.iter().map(|line| line["message"].as_str().expect("a message").to_owned());
        // A node without metrics shows no latencies.
        lines.filter(|line| !(line.contains("/metrics") && line.contains("404"))).collect()
    }

    /// The URLs of all requests since it was last asked for, those to the browser's own pages left out.
    pub async fn requests(&self) -> Vec<String> {
        let lines = self.log("performance").await;
        let message = |line: &Value| -> Value {
            serde_json::from_str(line["message"].as_str().expect("a message")).expect("JSON in JSON")
        };
        let events = lines.iter().map(|line| message(line)["message"].take());
        let sent = events.filter(|event| event["method"] == "Network.requestWillBeSent");
        let urls = sent.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned));
        // It begins with its own page for new tabs.
        urls.filter(|url| !url.starts_with("chrome:") && !url.starts_with("data:")).collect()
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let lines = self.call("POST", "/se/log", json!({"type": kind})).await.expect("the browser has a log");
        lines.as_array().expect("a list").clone()
    }

    /// Writes what is shown as PNG to the folder that FOREBAY_SCREENSHOTS names, where it is set.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("FOREBAY_SCREENSHOTS") else { return };
        let picture = self.devtools("Page.captureScreenshot", json!({"format": "png"})).await;
        let picture = base64(picture["data"].as_str().expect("a picture"));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name).with_extension("png");
        std::fs::write(file, picture).expect("the folder is there");
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let command = json!({"cmd": command, "params": parameters});
        self.call("POST", "/goog/cdp/execute", command).await.expect("the browser knows the command")
    }

    async fn element(&self, using: &str, value: &str) -> Result<String, String> {
        let found = self.call("POST", "/element", json!({"using": using, "value": value})).await?;
        let id = found.as_object().and_then(|found| found.values().next()?.as_str()).expect("an element");
        Ok(format!("/element/{id}"))
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        call(self.address, method, &format!("{}{path}", self.session), &body).await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver is the first process of its namespace: with it end all others, and then what waits for it.
        let pid = self.namespace.id().expect("it was not waited for");
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| rustix::process::Pid::from_raw(child.parse().ok()?))
        {
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        }
        while let Ok(None) = self.namespace.try_wait() {
            std::thread::yield_now();
        }
    }
}

async fn call(address: SocketAddr, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = within("chromedriver to answer", exchange(address, method, path, &body)).await;
    let answer = answer.map_err(|e| e.to_string())?;
    let mut json = answer.json();
    let value = json["value"].take();
    if answer.status == 200 { Ok(value) } else { Err(format!("{}: {}", value["error"], value["message"])) }
}

/// Reads as far as the answer goes: chromedriver leaves the connection open, whatever it says.
async fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
    let mut socket = TcpStream::connect(address).await?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n");
    socket.write_all((head + body).as_bytes()).await?;
    let mut received = Vec::new();
    loop {
        let read = socket.read_buf(&mut received).await?;
        match http::parse(&received) {
            Some(answer) => return Ok(answer),
            None if read == 0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            None => {}
        }
    }
}

/// Decodes base64 that the browser wrote.
fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for letter in text.bytes().take_while(|&letter| letter != b'=') {
        let six = ALPHABET.iter().position(|&known| known == letter).expect("the browser writes base64");
        bits = bits << 6 | six as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}
