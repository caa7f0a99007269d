//! Connects to a Sentinel or a node: from its name to a connection that is logged in.

use super::finding::{Finding, Step};
use super::login::{self, Admission};
use super::peer::{Channel, MIN_TIMEOUT, Peer};
use super::{dns, tcp, tls};
use crate::resp::control::Control;

/// Runs the first four steps. Returns their findings, and the connection if later steps can use it.
pub(super) async fn reach(peer: &Peer) -> (Vec<Finding>, Option<Channel>) {
    let mut findings = Vec::new();
    let (finding, ips) = dns::look_up(&peer.address, peer.connect_limit.max(MIN_TIMEOUT)).await;
    findings.push(finding);
    if ips.as_ref().is_some_and(Vec::is_empty) {
        let steps = [Step::Connect, Step::Tls, Step::Login];
        findings.extend(steps.map(|step| Finding::not_tried(step, "the name has no address")));
        return (findings, None);
    }
    let (finding, connected) = tcp::connect(&peer.address, ips, peer.connect_limit, &peer.hint).await;
    findings.push(finding);
    let Some((to, stream)) = connected else {
        let steps = [Step::Tls, Step::Login];
        findings.extend(steps.map(|step| Finding::not_tried(step, "there is no connection")));
        return (findings, None);
    };
    let (finding, stream) = tls::shake_hands(peer, &to, stream).await;
    findings.push(finding);
    let Some(stream) = stream else {
        findings.push(Finding::not_tried(Step::Login, "the TLS handshake failed"));
        return (findings, None);
    };
    if let Some(why) = &peer.no_password {
        let remedy =
            "fix the program that prints the password: run it by hand, as the user that runs respgate";
        findings.push(Finding::broken(Step::Login, format!("there is no password: {why}"), remedy));
        return (findings, None);
    }
    let mut channel = Control::new(stream);
    let (finding, admission) = login::log_in(&mut channel, peer, &to).await;
    findings.push(finding);
    (findings, (admission == Admission::In).then_some(channel))
}
