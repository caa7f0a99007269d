//! Checks respgate's own users.

use std::collections::HashMap;
use std::ffi::OsString;

use super::super::report::{Place, Report};
use super::super::schema::{Credentials, UserKeys};
use super::super::setting::Setting;
use super::super::typed::Named;
use super::{tenant, upstream};
use crate::rotation::source::PasswordSource;
use crate::tenant::config::TenantConfig;
use crate::tenant::members::CertificateRule;
use crate::tenant::users::UserConfig;

/// Checks all users. A user that names a tenant is added to the tenant's users.
pub(super) fn check_all(
    typed: Vec<Named<UserKeys>>,
    tenants: &mut [TenantConfig],
    env: &dyn Fn(&str) -> Option<OsString>,
    report: &mut Report,
) -> Vec<UserConfig> {
    report_shared_names(&typed, report);
    let mut users = Vec::new();
    for Named { name: user_name, place: table, keys: user } in typed {
        if let Setting::Given(named, place) = &user.tenant
            && let Some(other) = tenants.iter().find(|tenant| tenant.members.users.contains(&user_name))
            && other.name != *named
        {
            report.error(
                place,
                format!("tenant {} has this user already; a client belongs to one tenant", other.name),
            );
        }
        let name = tenant::named(&user.tenant, tenants, report).map(|tenant| tenant.name.clone());
        if let Some(tenant) = tenants.iter_mut().find(|tenant| Some(&tenant.name) == name.as_ref())
            && !tenant.members.users.contains(&user_name)
        {
            tenant.members.users.push(user_name.clone());
        }
        let Credentials { username, password, refresh } = user.credentials;
        let source = password.map(PasswordSource::Read);
        let account = upstream::account(username, source, refresh, upstream::USERS, env, report);
        match user.password {
            Setting::Given(password, _) => {
                let certificates = user.certificates.or(Vec::new());
                users.push(UserConfig { name: user_name, password, certificates, account });
            }
            Setting::Absent => report
                .error(&table.sub_key("password-hash"), "is missing; make one with: respgate hash-password"),
            Setting::Invalid => {}
        }
    }
    users
}

/// Reports a certificate's name that two users have, or that one list has twice.
fn report_shared_names(users: &[Named<UserKeys>], report: &mut Report) {
    let mut seen: HashMap<&CertificateRule, &Place> = HashMap::new();
    for user in users {
        let Setting::Given(names, place) = &user.keys.certificates else { continue };
        for name in names {
            if let Some(other) = seen.insert(name, place) {
                report.error(
                    place,
                    format!("\"{name}\" stands in {other} already; a certificate's name is one user's"),
                );
            }
        }
    }
}
