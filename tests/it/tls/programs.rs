//! Programs that people look at TLS with.

use std::process::{Command, Output, Stdio};

use super::*;

/// The output of a program that is given these lines.
fn run(program: &str, arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut process = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; run `tests/install` as root"));
    process.stdin.take().expect("its input").write_all(input.as_bytes()).expect("its input");
    process.wait_with_output().expect("its output")
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn openssl_s_client() {
    let stage = Stage::start("");
    let (address, ca) = (format!("127.0.0.1:{}", stage.port), stage.certificates.path("ca.pem"));
    let base = ["s_client", "-connect", &address, "-CAfile", &ca, "-verify_return_error", "-ign_eof"];
    // Without the last it would take QUIT for a word to itself, and leave when its input ends.
    for (more, expected) in [
        (&["-verify_hostname", "db.example", "-showcerts"][..], "TLSv1.3"),
        (&["-verify_ip", "127.0.0.1", "-tls1_2"], "TLSv1.2"),
    ] {
        let output = run("openssl", &[&base, more].concat(), "PING\r\nQUIT\r\n");
        let said = text(&output);
        assert!(said.contains("Verification: OK") && said.contains("+PONG"), "{said}");
        assert!(said.contains(expected) && said.contains("Test Intermediate"), "{said}");
    }
    // Five more connections, each with the session of the first.
    let output = run("openssl", &[&base[..], &["-tls1_2", "-reconnect"]].concat(), "QUIT\r\n");
    assert_eq!(text(&output).matches("Reused, TLSv1.2").count(), 5, "{}", text(&output));
    let resumed = stage.proxy.metric("respgate_tls_handshakes_total", &["kind=\"resumed\""]);
    assert_eq!(resumed, 5.0);
}

#[test]
fn cli_with_a_certificate() {
    let stage = Stage::start("tls-client-ca = \"DIR/ca.pem\"");
    let file = |name: &str| stage.certificates.path(name);
    let (port, ca, cert, key) =
        (stage.port.to_string(), file("ca.pem"), file("client.crt"), file("client.key"));
    for flavor in Flavor::ALL {
        let arguments =
            ["-p", &port, "--tls", "--cacert", &ca, "--cert", &cert, "--key", &key, "--sni", "localhost"];
        let output = run(&flavor.binary("cli"), &arguments, "SET k v\nGET k\nMULTI\nINCR n\nEXEC\n");
        assert!(text(&output).starts_with("OK\nv\nOK\nQUEUED\n"), "{}", text(&output));
    }
}
