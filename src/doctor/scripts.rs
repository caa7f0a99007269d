//! Checks whether scripts can run commands that clients may not run. respgate refuses commands that it sees, but it
//! does not see the commands that a script calls. In a script, a server refuses only commands with the flag NOSCRIPT,
//! and those that its ACL denies the user.

use tokio::time::Instant;

use super::finding::{Finding, Step};
use super::peer::{Channel, Peer};
use super::refused::RefusedCommands;
use super::words::{list, quoted};
use crate::resp::control::ControlError;
use crate::resp::server_error::ServerError;
use crate::resp::value::Value;
use crate::tenant::policy::acl;

/// A script that tries administrative commands without side effects and returns those that ran. The script catches the
/// error of a command that the ACL denies.
const TRIAL: &str = "local ran = {} \
    for _, words in ipairs({{'SLOWLOG', 'LEN'}, {'LATENCY', 'LATEST'}}) do \
    local reply = redis.pcall(unpack(words)) \
    if type(reply) ~= 'table' or not reply.err then ran[#ran + 1] = table.concat(words, ' ') end \
    end return ran";

/// Runs [`TRIAL`]. Returns `None` without a query if respgate refuses no commands.
///
/// # Errors
///
/// Returns the error if the connection fails.
pub(super) async fn examine(channel: &mut Channel, peer: &Peer) -> Result<Option<Finding>, ControlError> {
    let refused = &peer.refused;
    if !refused.administration && refused.tenants.is_empty() {
        return Ok(None);
    }
    let deadline = Instant::now() + peer.answer_timeout();
    let reply = channel.call(&[b"EVAL", TRIAL.as_bytes(), b"0"], deadline).await?;
    let user = peer.credentials.as_ref().and_then(|credentials| credentials.username.as_deref());
    let ran = match &reply {
        Value::Error(line) if ServerError::of(line) == ServerError::NoPermission => None,
        Value::Error(line) => {
            let why = format!("no script could be tried ({})", quoted(line, peer.credentials.as_ref()));
            return Ok(Some(Finding::not_tried(Step::Scripts, why)));
        }
        reply => {
            let names = reply.elements().unwrap_or_default().iter();
            Some(names.filter_map(|name| name.text().map(str::to_owned)).collect::<Vec<_>>())
        }
    };
    Ok(Some(judge(refused, user.unwrap_or("default"), ran)))
}

/// Returns the finding. `ran` holds the administrative commands that a script of `user` could run; it is `None` if
/// `user` may run no scripts.
fn judge(refused: &RefusedCommands, user: &str, ran: Option<Vec<String>>) -> Finding {
    let finding = match ran {
        None => return Finding::ok(Step::Scripts, format!("user {user:?} may run no scripts")),
        Some(ran) if ran.is_empty() || !refused.administration => Finding::ok(
            Step::Scripts,
            format!("scripts of user {user:?} can run nothing that a listener refuses"),
        ),
        Some(ran) => Finding::warning(
            Step::Scripts,
            format!(
                "scripts of user {user:?} can run {}, which a listener refuses: the server stops only NOSCRIPT commands",
                list(ran)
            ),
            format!("on the server: ACL SETUSER {user} {}", acl::rules(None)),
        ),
    };
    refused.tenants.iter().fold(finding, |finding, (tenant, rules)| {
        finding.detail(format!(
            "to hold scripts to the policy of tenant {tenant}, for each user of the server that its clients act as: \
             ACL SETUSER NAME {rules}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn commands_that_ran_are_listed_with_a_remedy() {
        let refused =
            RefusedCommands { administration: true, tenants: vec![("shop".into(), "-@write".into())] };
        let finding = judge(&refused, "app", Some(vec!["SLOWLOG LEN".into()]));
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.seen.contains("SLOWLOG LEN"), "{}", finding.seen);
        let remedy = finding.remedy.unwrap();
        assert!(
            remedy.ends_with("ACL SETUSER app -@admin -memory|purge +role +lastsave +config|get"),
            "{remedy}"
        );
        assert!(finding.details[0].ends_with("ACL SETUSER NAME -@write"), "{:?}", finding.details);
        assert_eq!(judge(&refused, "app", Some(Vec::new())).level, Level::Ok);
        assert_eq!(judge(&refused, "app", None).level, Level::Ok);
        let allowed = RefusedCommands { administration: false, ..refused };
        assert_eq!(judge(&allowed, "app", Some(vec!["SLOWLOG LEN".into()])).level, Level::Ok);
    }
}
