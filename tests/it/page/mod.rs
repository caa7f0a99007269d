//! The status page in a real browser: during a failover, with hostile names, and as a means of control.

mod browser;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::support::client::Client;
use crate::support::deployment::{Deployment, Plan};
use crate::support::proxy::Proxy;
use crate::support::read;
use crate::support::servers::{Flavor, Server};

use browser::Browser;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const LIMIT: Duration = Duration::from_secs(60);

/// Text that does harm wherever it becomes HTML.
const HOSTILE: &str = "<img/src=x/onerror=window.harmed=1>";

/// The text that the page shows.
const TEXT: &str = "document.body.innerText";

fn url(proxy: &Proxy) -> String {
    format!("http://127.0.0.1:{}/", proxy.admin)
}

fn write_token(folder: &Path) -> String {
    let path = folder.join("token");
    fs::write(&path, TOKEN).expect("the token");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
    path.display().to_string()
}

/// Returns the port of a Sentinel that answers everything with a hostile error.
fn hostile_sentinel() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut request = [0; 4096];
                while matches!(read::once(&mut stream, &mut request), Ok(1..)) {
                    let answered = stream.write_all(format!("-ERR {HOSTILE}\r\n").as_bytes());
                    if answered.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// Clients that use every kind of lane, some with hostile names.
fn clients(proxy: &Proxy) -> Vec<Client> {
    let connect = |name: &str, command: &[&str]| {
        let mut client = proxy.client();
        client.expect(&["CLIENT", "SETNAME", name], "+OK\r\n");
        client.send_command(command);
        client
    };
    let mut all: Vec<Client> = (0..3).map(|_| connect("app", &["GET", "key"])).collect();
    all.push(connect(HOSTILE, &["SUBSCRIBE", HOSTILE]));
    all.push(connect(HOSTILE, &["BLPOP", HOSTILE, "0"]));
    all.push(connect(HOSTILE, &["MULTI"]));
    all
}

/// What a page for everybody must have: names for pictures and tables, labels, one first heading, and no sideways scrolling.
fn assert_accessible(browser: &Browser) {
    for (what, script) in [
        (
            "every picture has a title",
            "return [...document.querySelectorAll('svg[role=img]')].every((picture) => picture.getAttribute('aria-label') || picture.querySelector('title').textContent)",
        ),
        (
            "every table has a caption",
            "return [...document.querySelectorAll('table')].every((table) => table.caption.textContent)",
        ),
        (
            "every field has a label",
            "return [...document.querySelectorAll('input, select')].every((field) => field.labels.length > 0)",
        ),
        ("there is one first heading", "return document.querySelectorAll('h1').length === 1"),
        (
            "headings have no gaps",
            "const levels = [...document.querySelectorAll('h1, h2, h3')].map((heading) => Number(heading.tagName[1])); return levels.every((level, at) => at === 0 || level <= levels[at - 1] + 1)",
        ),
        (
            "there are landmarks",
            "return ['header', 'main', 'footer'].every((tag) => document.querySelector(tag))",
        ),
        (
            "warnings are announced",
            "return document.getElementById('warnings').getAttribute('aria-live') === 'polite'",
        ),
        (
            "nothing is wider than the window",
            "return document.documentElement.scrollWidth <= window.innerWidth",
        ),
    ] {
        assert_eq!(browser.run(script), true, "{what}");
    }
}

fn assert_unharmed(browser: &Browser) {
    assert_eq!(browser.run("return document.querySelectorAll('img').length"), 0);
    assert_eq!(browser.run("return typeof window.harmed"), "undefined");
    assert_eq!(browser.errors(), [""; 0], "errors of the console");
}

#[test]
fn the_page_shows_a_failover() {
    // Long enough for a browser on a busy machine to see the hold.
    let mut deployment =
        Deployment::start(&Plan { replicas: 2, down_after_ms: 6000, ..Plan::new(Flavor::Valkey) });
    deployment.wait_until_redundant();
    let folder = tempfile::tempdir().expect("a folder");
    let mut proxy = Proxy::start_file(
        2,
        &format!(
            "latency = \"on\"\ncontrol-token-file = {:?}\n[upstreams.main]\nurl = {:?}\n[tenants.shop]\ndefault = true\n\
             commands-per-second = 1000\nconnections = 100\nreads = \"prefer-replica\"\n",
            write_token(folder.path()),
            deployment.url().replacen("127.0.0.1", &format!("127.0.0.1:{},127.0.0.1", hostile_sentinel()), 1)
        ),
    );
    proxy.allow_log("");
    let clients = clients(&proxy);
    let (browser, phone) = (Browser::start(1240, 900), Browser::start(390, 844));
    phone.darken();
    let former = format!("127.0.0.1:{}", deployment.primary.port);
    for browser in [&browser, &phone] {
        browser.open(&url(&proxy));
        browser.wait_for("the replicas", LIMIT, &format!("{TEXT}.includes('serving') && document.querySelector('.topology desc').textContent.split('in sync').length === 3"));
        let desc = browser.run("return document.querySelector('.topology desc').textContent");
        let desc = desc.as_str().expect("a description");
        assert!(
            desc.contains(&format!("The primary is {former}, generation 1. 3 of 4 Sentinels name it.")),
            "{desc}"
        );
        browser.wait_for(
            "the reads of both replicas",
            LIMIT,
            "document.querySelector('.topology desc').textContent.split('reads/s').length === 3",
        );
        browser.wait_for(
            "the pins",
            LIMIT,
            &format!(
                "['1 subscription', '1 blocking', '1 transaction'].every((pin) => {TEXT}.includes(pin))"
            ),
        );
        browser.wait_for(
            "the hostile text",
            LIMIT,
            &format!("{TEXT}.includes('ERR ' + {HOSTILE:?}) && document.querySelector('#clients').innerText.includes({HOSTILE:?}) && {TEXT}.includes('shop')"),
        );
        browser.wait_for(
            "the p99",
            LIMIT,
            "document.getElementById('plot-main-p50_ms-desc').textContent.match(/p50: [0-9.]+ ms.*p99: [0-9.]+ ms/)",
        );
        assert_accessible(browser);
    }
    browser.picture("status-page");
    phone.picture("status-page-phone-dark");

    deployment.primary.crash();
    let mut writer = proxy.client();
    writer.send_command(&["SET", "key", "value"]);
    for browser in [&browser, &phone] {
        browser.wait_for("the hold", LIMIT, &format!("{TEXT}.includes('commands wait')"));
    }
    browser.picture("status-page-failover");
    for browser in [&browser, &phone] {
        browser.wait_for(
            "the new primary",
            LIMIT,
            "document.querySelector('.topology desc').textContent.includes('generation 2')",
        );
        browser.wait_for(
            "the failover",
            LIMIT,
            "document.querySelector('.failover desc')?.textContent.includes('its first reply after')",
        );
        let shown = browser.run("return document.querySelector('.failover title').textContent");
        assert!(
            shown
                .as_str()
                .is_some_and(|title| title.starts_with(&format!("Failover from {former} to 127.0.0.1:"))),
            "{shown}"
        );
        assert_accessible(browser);
        assert_unharmed(browser);
    }
    writer.expect_reply("+OK\r\n");
    browser.picture("status-page-after");
    phone.picture("status-page-phone-dark-after");
    drop(clients);
}

#[test]
fn control_asks_first_and_needs_the_right() {
    let server = Server::start(Flavor::Redis);
    let folder = tempfile::tempdir().expect("a folder");
    let file = format!("[upstreams.main]\naddress = \"127.0.0.1:{}\"\n", server.port);
    let without = Proxy::start_file(1, &file);
    let mut with =
        Proxy::start_file(1, &format!("control-token-file = {:?}\n{file}", write_token(folder.path())));
    with.allow_log("control: refused");
    let browser = Browser::start(1240, 900);
    browser.open(&url(&without));
    browser.wait_for(
        "the reason",
        LIMIT,
        &format!("{TEXT}.includes('cannot control respgate: this address does not permit control')"),
    );
    assert_eq!(browser.run("return document.querySelectorAll('#control button').length"), 0);
    let remedy = format!("return {TEXT}.includes('Write latency = \"on\" at the top of the configuration')");
    assert_eq!(browser.run(&remedy), true, "how to see p50 and p99");

    browser.open(&url(&with));
    let click = |text: &str| {
        let script = format!(
            "[...document.querySelectorAll('dialog button, #control button')].find((button) => button.textContent === {text:?}).click()"
        );
        browser.run(&script);
    };
    browser.wait_for("the actions", LIMIT, "document.querySelector('#control button')");
    // Cancelled: nothing is sent.
    click("Change log level");
    click("Cancel");
    assert!(!with.log().contains("control: "), "{}", with.log());
    let said = |text: &str| format!("document.querySelector('.said').textContent.includes({text:?})");
    for (token, answer) in [("wrong", "the token is wrong"), (TOKEN, "\"level\":\"info\"")] {
        click("Change log level");
        browser.write("#control-token", token);
        browser.run("document.querySelector('dialog button[type=submit]').click()");
        browser.wait_for(answer, LIMIT, &said(answer));
    }
    assert!(with.log().contains("control: done"));
    // The token is remembered for the next action, in memory only.
    click("Reload configuration");
    browser.run("document.querySelector('dialog button[type=submit]').click()");
    browser.wait_for("the reload", LIMIT, &said("unchanged"));
    assert_eq!(browser.run("return localStorage.length + sessionStorage.length + document.cookie.length"), 0);
    let errors = browser.errors();
    assert!(errors.iter().all(|error| error.contains("401")), "{errors:?}");
}

/// A page that cannot reach respgate any more says so.
#[test]
fn a_page_without_answers_says_so() {
    let server = Server::start(Flavor::Valkey);
    let mut proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    let browser = Browser::start(1240, 900);
    browser.open(&url(&proxy));
    browser.wait_for("the page to be live", LIMIT, "document.getElementById('live').textContent === 'live'");
    proxy.signal("TERM");
    proxy.wait_for_exit();
    browser.wait_for(
        "the page to notice",
        LIMIT,
        "document.getElementById('live').textContent.startsWith('no answer for')",
    );
}
