//! A headless Chromium, driven by WebDriver.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::port::free_port;
use crate::support::servers::spawn;
use crate::support::{read, signal, wait};

/// A browser with one window. Dropping it closes it.
pub struct Browser {
    port: u16,
    session: String,
    driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser whose window has this size.
    pub fn start(width: u32, height: u32) -> Self {
        let (port, profile) = (free_port(), tempfile::tempdir().expect("a folder"));
        let mut command = Command::new("chromedriver");
        command
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let driver = spawn(&mut command, "install chromium-driver (tests/install)");
        let mut browser = Self { port, session: String::new(), driver, _profile: profile };
        wait::until("chromedriver to answer", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let folder = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &folder,
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        } } });
        let session = browser.send("POST", "/session", Some(&capabilities));
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        browser.devtools("Emulation.setDeviceMetricsOverride", size);
        browser
    }

    /// Asks for dark colours.
    pub fn darken(&self) {
        let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
        self.devtools("Emulation.setEmulatedMedia", dark);
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.call("POST", "/url", Some(&json!({ "url": url })));
    }

    /// Runs a script, and returns what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", Some(&json!({ "script": script, "args": [] })))
    }

    /// Waits until a script returns true.
    #[track_caller]
    pub fn wait_for(&self, what: &str, limit: Duration, condition: &str) {
        let script = format!("return Boolean({condition})");
        wait::until_some(what, limit, || (self.run(&script) == true).then_some(()));
    }

    /// Writes text into the element that a selector finds.
    pub fn write(&self, selector: &str, text: &str) {
        let found =
            self.call("POST", "/element", Some(&json!({ "using": "css selector", "value": selector })));
        let element = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        let path = format!("/element/{}/value", element.expect("the element"));
        self.call("POST", &path, Some(&json!({ "text": text })));
    }

    /// Returns what the console has shown since the last call: errors and violations of the policy.
    pub fn errors(&self) -> Vec<String> {
        let entries = self.call("POST", "/se/log", Some(&json!({ "type": "browser" })));
        let entries = entries.as_array().cloned().unwrap_or_default();
        let severe = entries.iter().filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        severe.map(|entry| entry["message"].to_string()).collect()
    }

    /// Saves a picture of the whole page in the folder that `PAGE_SCREENSHOTS` names, if it names one.
    pub fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("PAGE_SCREENSHOTS").map(PathBuf::from) else { return };
        let options = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.devtools("Page.captureScreenshot", options);
        let bytes = decoded(picture["data"].as_str().expect("a picture"));
        std::fs::write(folder.join(format!("{name}.png")), bytes).expect("the picture");
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.call("POST", "/goog/cdp/execute", Some(&json!({ "cmd": command, "params": parameters })))
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.send(method, &format!("/session/{}{path}", self.session), body)
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("chromedriver");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("a request");
        let answer = read_answer(&mut stream);
        let value = serde_json::from_str::<Value>(&answer).expect("JSON")["value"].take();
        assert!(value["error"].is_null(), "{path} {body}: {value}");
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.call("DELETE", "", None);
        }
        // The driver ends its browser with it.
        signal::send("TERM", self.driver.id());
        let _ = self.driver.wait();
    }
}

/// Reads an answer of the length that its head says.
fn read_answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 65536];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if length.is_some_and(|length| body.len() >= length) {
                return body.to_owned();
            }
        }
        let count = read::once(stream, &mut part).expect("an answer");
        assert!(count > 0, "chromedriver closed the connection: {text}");
        bytes.extend_from_slice(&part[..count]);
    }
}

/// Decodes base64.
fn decoded(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let groups = digits.chunks(4).flat_map(|group| {
        let bits =
            group.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    });
    groups.collect()
}
