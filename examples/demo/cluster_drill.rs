//! Three changes of a cluster: slots that move, a failover by hand, and a crash; what was seen of each, and what became of the writes.

use std::io;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Node, nodes};
use crate::connection::ask;
use crate::processes::wait_for;
use crate::screen::Screen;
use crate::verdict::Verdict;
use crate::workload::{Workload, keys};

/// How long the clients work undisturbed before each.
const CALM: Duration = Duration::from_secs(3);

/// How long they work after each.
const AFTERMATH: Duration = Duration::from_secs(1);

/// A cluster at work.
pub struct ClusterDrill<'a> {
    pub cluster: &'a mut Cluster,
    pub workload: &'a Workload,
    pub screen: Screen,
}

impl ClusterDrill<'_> {
    /// All three. Whether each went as promised.
    pub async fn run(self) -> io::Result<bool> {
        tokio::time::sleep(CALM).await;
        self.screen.title(
            "1. Slots move: the slot of each client's counter goes to the next primary, with its keys",
        );
        let begun = Instant::now();
        for key in keys() {
            let slot = number(&ask(self.cluster.nodes()[0], &format!("CLUSTER KEYSLOT {key}")).await?)?;
            let (from, to) = self.move_slot(slot).await?;
            self.line(begun, &format!("slot {slot} of {key} has moved from {from} to {to}"));
        }
        let moved = self.judge(Verdict::is_seamless, "0 lost, 0 doubled, no error").await?;

        tokio::time::sleep(CALM).await;
        self.screen.title("2. A failover by hand, as before maintenance: CLUSTER FAILOVER at a replica");
        let begun = Instant::now();
        let (old, new) = self.fail_over().await?;
        self.line(begun, &format!("{new} is the primary in place of {old}"));
        let planned = self.judge(Verdict::is_seamless, "0 lost, 0 doubled, no error").await?;

        tokio::time::sleep(CALM).await;
        self.screen.title("3. A crash: SIGKILL to a primary, amid writes. Only its slots wait");
        let begun = Instant::now();
        self.cluster.crash(new).await?;
        self.line(begun, &format!("{new} is killed"));
        let heir = self.wait_for_heir(new).await?;
        self.line(begun, &format!("{heir} is the primary in place of {new}"));
        self.cluster.restart(new)?;
        let verdict = Verdict::is_honest;
        let crash = self.judge(verdict, "0 doubled, no error but OUTCOMEUNKNOWN").await?;
        Ok(moved && planned && crash)
    }

    /// Moves a slot with its keys, as `--cluster reshard` of the command-line client does. Gives the ports of the two primaries.
    async fn move_slot(&self, slot: u16) -> io::Result<(u16, u16)> {
        let mut primaries: Vec<Node> = nodes(self.cluster.nodes()[0]).await?;
        primaries.retain(|node| node.is_primary && node.is_up);
        primaries.sort_by_key(|node| node.port);
        let at = primaries.iter().position(|node| node.serves(slot));
        let at = at.ok_or_else(|| io::Error::other(format!("no primary serves slot {slot}")))?;
        let (from, to) = (&primaries[at], &primaries[(at + 1) % primaries.len()]);
        ask(to.port, &format!("CLUSTER SETSLOT {slot} IMPORTING {}", from.id)).await?;
        ask(from.port, &format!("CLUSTER SETSLOT {slot} MIGRATING {}", to.id)).await?;
        loop {
            let keys = ask(from.port, &format!("CLUSTER GETKEYSINSLOT {slot} 100")).await?;
            if keys.is_empty() {
                break;
            }
            ask(from.port, &format!("MIGRATE 127.0.0.1 {} \"\" 0 5000 KEYS {}", to.port, keys.join(" ")))
                .await?;
        }
        let others = primaries.iter().filter(|node| node.id != from.id && node.id != to.id);
        for node in [to, from].into_iter().chain(others) {
            ask(node.port, &format!("CLUSTER SETSLOT {slot} NODE {}", to.id)).await?;
        }
        // A node that does not know the newest epoch yet could lose its next slot to an older claim.
        for primary in &primaries {
            wait_for("the primaries to agree on a moved slot", || async move {
                let known = nodes(primary.port).await.unwrap_or_default();
                known.iter().any(|node| node.id == to.id && node.serves(slot))
            })
            .await?;
        }
        Ok((from.port, to.port))
    }

    /// Lets the replica of the primary that serves the first counter take over. Gives the ports of the old and the new primary.
    async fn fail_over(&self) -> io::Result<(u16, u16)> {
        let asked = self.cluster.nodes()[0];
        let slot = match keys().next() {
            Some(key) => number(&ask(asked, &format!("CLUSTER KEYSLOT {key}")).await?)?,
            None => 0,
        };
        let known = nodes(asked).await?;
        let primary = known.iter().find(|node| node.is_primary && node.serves(slot));
        let replica = primary.and_then(|primary| known.iter().find(|node| node.primary == primary.id));
        let (Some(primary), Some(replica)) = (primary, replica) else {
            return Err(io::Error::other(format!("slot {slot} has no primary with a replica")));
        };
        ask(replica.port, "CLUSTER FAILOVER").await?;
        let heir = self.wait_for_heir(primary.port).await?;
        Ok((primary.port, heir))
    }

    /// Waits until every other node knows another primary for the slots that `old` had. Gives its port.
    async fn wait_for_heir(&self, old: u16) -> io::Result<u16> {
        let asked = self.cluster.nodes().iter().copied().find(|port| *port != old).unwrap_or(old);
        let before = nodes(asked).await?;
        let replicas: Vec<u16> = match before.iter().find(|node| node.port == old) {
            // The failover was quicker than the look.
            Some(node) if !node.is_primary => {
                return Ok(before.iter().find(|heir| heir.id == node.primary).map_or(old, |heir| heir.port));
            }
            Some(node) => {
                before.iter().filter(|other| other.primary == node.id).map(|replica| replica.port).collect()
            }
            None => Vec::new(),
        };
        let replicas = &replicas;
        wait_for("a replica to take over", || async move { heir(asked, replicas).await.is_some() }).await?;
        heir(asked, replicas).await.ok_or_else(|| io::Error::other("the replica that took over is gone"))
    }

    /// Says the verdict, and gives whether it is as promised.
    async fn judge(&self, passed: fn(&Verdict) -> bool, promise: &str) -> io::Result<bool> {
        tokio::time::sleep(AFTERMATH).await;
        let longest = self.workload.books().longest_wait.as_secs_f64();
        let (last, first) = self.workload.books().silence;
        self.screen.say(&format!(
            "              longest that a client waited for an answer: {longest:.3} s; that no client was answered: {:.3} s",
            first.saturating_duration_since(last).as_secs_f64()
        ));
        let verdict = self.workload.settle(self.cluster.port()).await?;
        Ok(self.screen.judge(&verdict, passed(&verdict), promise))
    }

    fn line(&self, begun: Instant, text: &str) {
        self.screen.say(&format!("  {:+8.3} s  {text}", begun.elapsed().as_secs_f64()));
    }
}

/// The first of these nodes that is a primary, as `asked` sees it.
async fn heir(asked: u16, replicas: &[u16]) -> Option<u16> {
    let known = nodes(asked).await.unwrap_or_default();
    known.iter().find(|node| node.is_primary && replicas.contains(&node.port)).map(|node| node.port)
}

fn number(texts: &[String]) -> io::Result<u16> {
    texts.concat().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}
