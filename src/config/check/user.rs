//! Checks respgate's own users.

use std::ffi::OsString;

use super::super::report::Report;
use super::super::schema::{Credentials, UserKeys};
use super::super::setting::Setting;
use super::super::typed::Named;
use super::{tenant, upstream};
use crate::rotation::source::PasswordSource;
use crate::tenant::config::TenantConfig;
use crate::tenant::users::UserConfig;

/// Checks all users. A user that names a tenant is added to the tenant's users.
pub(super) fn check_all(
    typed: Vec<Named<UserKeys>>,
    tenants: &mut [TenantConfig],
    env: &dyn Fn(&str) -> Option<OsString>,
    report: &mut Report,
) -> Vec<UserConfig> {
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
            Setting::Given(password, _) => users.push(UserConfig { name: user_name, password, account }),
            Setting::Absent => report
                .error(&table.sub_key("password-hash"), "is missing; make one with: respgate hash-password"),
            Setting::Invalid => {}
        }
    }
    users
}
