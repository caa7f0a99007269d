//! Checks where an operator switches an upstream to, by the rules of the configuration.

use super::flags::{Flag, Flags};
use super::load;
use super::report::Place;
use crate::operator::{SwitchRequest, Target};

/// Checks a request to switch an upstream from `present`, and reads its files. What the request leaves out stays: the
/// account if it names neither a user nor a password, and the TLS settings of a leg that goes on to speak TLS if it names
/// neither authorities nor a server name.
///
/// # Errors
/// Returns every error in the request. No text contains a password.
pub fn switch_target(request: &SwitchRequest, present: &Target) -> Result<Target, String> {
    let flag = |name, shown, text: &Option<String>| {
        text.clone().map(|text| Flag { name, place: Place::Flag(shown), text })
    };
    let settings = [
        flag("upstream", "url", &Some(request.url.clone())),
        flag("upstream-user", "username", &request.username),
        flag("upstream-password-file", "password-file", &request.password_file),
        flag("upstream-ca", "ca", &request.ca),
        flag("upstream-server-name", "server-name", &request.server_name),
    ];
    let flags = Flags { config: None, settings: settings.into_iter().flatten().collect() };
    let (config, report) = load(&flags, &|_| None);
    let upstream = config.filter(|_| report.errors.is_empty()).and_then(|mut config| config.upstreams.pop());
    let Some(upstream) = upstream else {
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        return Err(errors.join("; "));
    };
    let mut target = upstream.target();
    if target.account.is_none() && request.username.is_none() {
        target.account.clone_from(&present.account);
    }
    if target.sentinel_account.is_none() {
        target.sentinel_account.clone_from(&present.sentinel_account);
    }
    if request.ca.is_none() && request.server_name.is_none() {
        for (leg, before) in
            [(&mut target.tls, &present.tls), (&mut target.sentinel_tls, &present.sentinel_tls)]
        {
            if leg.is_some() && before.is_some() {
                leg.clone_from(before);
            }
        }
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::config::DiscoveryConfig;
    use crate::topology::Address;

    fn target(url: &str, present: Option<&Target>) -> Result<Target, String> {
        let nowhere = Target {
            discovery: DiscoveryConfig::Fixed(Address::tcp("old.example", 6379)),
            account: None,
            sentinel_account: None,
            tls: None,
            sentinel_tls: None,
        };
        let request = SwitchRequest { url: url.into(), ..SwitchRequest::default() };
        switch_target(&request, present.unwrap_or(&nowhere))
    }

    #[test]
    fn a_url_says_everything() {
        let to = target("rediss://app:s3cret@new.example:6380", None).unwrap();
        assert_eq!(to.discovery, DiscoveryConfig::Fixed(Address::tcp("new.example", 6380)));
        assert!(to.tls.is_some() && to.account.is_some());
        assert_eq!(to.to_string(), "new.example:6380 with TLS");
    }

    #[test]
    fn what_is_left_out_stays() {
        let before = target("redis://app:s3cret@new.example:6380", None).unwrap();
        assert_eq!(target("redis://other.example", Some(&before)).unwrap().account, before.account);
        let other = target("redis://who:else1@other.example", Some(&before)).unwrap();
        assert_ne!(other.account, before.account);
    }

    #[test]
    fn errors_name_the_argument_and_no_password() {
        let error = target("http://app:s3cret@new.example", None).unwrap_err();
        assert!(error.starts_with("url") && !error.contains("s3cret"), "{error}");
        let request = SwitchRequest {
            url: "redis://new.example".into(),
            password_file: Some("/nonexistent/password".into()),
            ..SwitchRequest::default()
        };
        let present = target("redis://new.example", None).unwrap();
        let error = switch_target(&request, &present).unwrap_err();
        assert!(error.starts_with("password-file"), "{error}");
    }
}
