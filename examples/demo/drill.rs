//! The two failovers: what is done, what was seen of it, and what became of the writes.

use std::io;
use std::time::{Duration, Instant};

use crate::connection::ask;
use crate::deployment::Deployment;
use crate::processes::wait_for;
use crate::screen::Screen;
use crate::verdict::Verdict;
use crate::watch::Watch;
use crate::workload::Workload;

/// A failover that takes longer is not going to happen.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long the clients work undisturbed before each.
const CALM: Duration = Duration::from_secs(3);

/// A deployment at work, and the eyes on it.
pub struct Drill<'a> {
    pub deployment: &'a mut Deployment,
    pub workload: &'a Workload,
    pub watch: &'a Watch,
    pub screen: Screen,
}

impl Drill<'_> {
    /// Both of them. Whether both went as promised.
    pub async fn run(mut self) -> io::Result<bool> {
        let first = self.deployment.primary();
        tokio::time::sleep(CALM).await;
        self.screen.title("1. A planned failover, as before maintenance: SENTINEL FAILOVER mymaster");
        let (verdict, second) = self.planned(first).await?;
        let planned = self.screen.judge(&verdict, verdict.is_seamless(), "0 lost, 0 doubled, no error");

        tokio::time::sleep(CALM).await;
        self.screen.title("2. A crash: SIGKILL to the primary, amid writes");
        let (verdict, _) = self.crash(second).await?;
        let crash =
            self.screen.judge(&verdict, verdict.is_honest(), "0 doubled, no error but OUTCOMEUNKNOWN");
        if verdict.lost > 0 {
            self.screen.say("  (lost: acknowledged by the primary, which died before replicating them)");
        }
        Ok(planned && crash)
    }

    /// Gives the verdict, and the new primary's port.
    async fn planned(&mut self, old: u16) -> io::Result<(Verdict, u16)> {
        self.watch.begin(old);
        let begun = Instant::now();
        let [sentinel, ..] = self.deployment.sentinels();
        ask(sentinel, "SENTINEL FAILOVER mymaster").await?;
        let new = self.wait_for_success().await?;
        self.tell(begun, "the Sentinels are asked for a failover", old);
        // Until then the old primary takes writes, from whoever still sends it any.
        wait_for("the Sentinels to make the old primary a replica", || async move {
            ask(old, "ROLE").await.is_ok_and(|role| role.first().is_some_and(|role| role == "slave"))
        })
        .await?;
        self.line(begun, Instant::now(), &format!("the Sentinels make the old primary, {old}, a replica"));
        Ok((self.workload.settle(new).await?, new))
    }

    /// Gives the verdict, and the new primary's port.
    async fn crash(&mut self, old: u16) -> io::Result<(Verdict, u16)> {
        self.watch.begin(old);
        let begun = Instant::now();
        self.deployment.crash(old).await?;
        let new = self.wait_for_success().await?;
        self.tell(begun, &format!("the primary, {old}, is killed"), old);
        self.deployment.restart(old, new)?;
        Ok((self.workload.settle(new).await?, new))
    }

    /// Waits until the Sentinels' majority names another primary, and clients have had a second of success.
    async fn wait_for_success(&self) -> io::Result<u16> {
        let patient = Instant::now() + PATIENCE;
        loop {
            let majority = self.watch.seen().majority;
            let success = self.workload.books().last_success;
            match majority {
                Some((named, port)) if success > named + Duration::from_secs(1) => return Ok(port),
                _ if Instant::now() > patient => {
                    let what = if majority.is_some() {
                        "a success with the new primary"
                    } else {
                        "the Sentinels to agree"
                    };
                    return Err(io::Error::other(format!("waited {PATIENCE:?} in vain for {what}")));
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The timeline, in order of time.
    fn tell(&self, begun: Instant, cause: &str, old: u16) {
        let seen = self.watch.seen();
        let books = self.workload.books();
        let mut lines = vec![(begun, cause.to_owned())];
        lines.extend(seen.sign.clone().map(|(at, sign)| (at, format!("first sign: {sign}"))));
        lines.extend(seen.page.clone().map(|(at, page)| (at, format!("respgate's /readyz: {page}"))));
        let held =
            format!("respgate holds commands: its metrics show up to {} clients waiting", seen.most_held);
        lines.extend(seen.hold.map(|at| (at, held)));
        let named =
            |(at, port)| (at, format!("switch: two of three Sentinels name {port} in place of {old}"));
        lines.extend(seen.majority.map(named));
        let (last, first) = books.silence;
        lines.push((last, "the last success before the pause".to_owned()));
        lines.push((first, "first success after it".to_owned()));
        lines.sort_by_key(|(at, _)| *at);
        for (at, text) in lines {
            self.line(begun, at, &text);
        }
        let longest = books.longest_wait.as_secs_f64();
        self.screen.say(&format!("              longest that a client waited for an answer: {longest:.2} s"));
    }

    fn line(&self, begun: Instant, at: Instant, text: &str) {
        let after = at.saturating_duration_since(begun).as_secs_f64();
        let before = begun.saturating_duration_since(at).as_secs_f64();
        self.screen.say(&format!("  {:+8.3} s  {text}", after - before));
    }
}
