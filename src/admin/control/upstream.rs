//! The actions on upstreams: pause, resume, reconnect, switch.

use std::time::Duration;

use serde_json::{Value, json};

use super::Control;
use crate::files;
use crate::operator::{DataProof, Pause, SwitchRequest};

impl Control {
    pub(super) async fn pause(
        &self,
        upstream: &str,
        pause: Pause,
        deadline: Option<Duration>,
        by: &str,
    ) -> Result<Value, String> {
        let paused = self.operators.ordered_by(by).pause(upstream, pause, deadline).await?;
        let mut result = json!({
            "upstream": upstream,
            "state": match (paused.running, pause, paused.connections) {
                (1.., ..) => "paused, and commands are still under way",
                (0, Pause::AtOnce, 1..) => "paused, and connections are still open",
                _ => "paused",
            },
            "ends-after-seconds": seconds(paused.deadline),
            "commands-under-way": paused.running,
            "clients-waiting": paused.waiting,
            "open-connections": paused.connections,
        });
        if paused.again {
            result["note"] = "it was paused already; the new deadline counts".into();
        }
        if paused.deadline > paused.hold_timeout {
            let limit = seconds(paused.hold_timeout);
            result["warning"] = format!(
                "{limit} s after its begin (hold-timeout), commands that wait fail, and new ones fail at once"
            )
            .into();
        }
        Ok(result)
    }

    pub(super) async fn resume(&self, upstream: &str) -> Result<Value, String> {
        let lasted = self.operators.resume(upstream).await?;
        Ok(json!({ "upstream": upstream, "state": "resumed", "paused-for-seconds": seconds(lasted) }))
    }

    pub(super) async fn reconnect(&self, upstream: &str) -> Result<Value, String> {
        let reconnected = self.operators.reconnect(upstream).await?;
        Ok(json!({
            "upstream": upstream,
            "state": if reconnected.left == 0 { "reconnected" } else { "reconnecting" },
            "former-connections-in-use": reconnected.left,
        }))
    }

    pub(super) async fn switch(
        &self,
        upstream: &str,
        to: SwitchRequest,
        proof: DataProof,
        by: &str,
    ) -> Result<Value, String> {
        let present = self.operators.target(upstream)?;
        let parse = self.parse_target.clone();
        let reading = tokio::task::spawn_blocking(move || {
            files::supervised(files::LIMIT, move || parse(&to, &present))
        });
        let target = match reading.await {
            Ok(Ok(target)) => target?,
            Ok(Err(_)) | Err(_) => {
                return Err("a file that the switch names could not be read in time".into());
            }
        };
        let switched = self.operators.ordered_by(by).switch(upstream, target, proof).await?;
        let mut result = json!({
            "upstream": upstream,
            "from": switched.from,
            "to": switched.to,
            "commands-waited-ms": switched.held.as_millis() as u64,
        });
        if switched.until_start {
            result["note"] =
                "until the next start; change the upstream's url in the configuration too".into();
        }
        if !switched.missing_commands.is_empty() {
            result["commands-unknown-to-the-new-server"] = switched.missing_commands.into();
        }
        Ok(result)
    }
}

/// Returns a duration in seconds, with milliseconds.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}
