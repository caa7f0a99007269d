//! Checks respgate's own users.

use std::ffi::OsString;

use super::super::report::Report;
use super::super::typed::{Setting, TypedUser};
use super::{tenant, upstream};
use crate::rotation::source::PasswordSource;
use crate::tenant::config::TenantConfig;
use crate::tenant::users::UserConfig;

/// Checks all users. One who belongs to a tenant is added to its users.
pub(super) fn check_all(
    typed: Vec<TypedUser>,
    tenants: &mut [TenantConfig],
    env: &dyn Fn(&str) -> Option<OsString>,
    report: &mut Report,
) -> Vec<UserConfig> {
    let mut users = Vec::new();
    for user in typed {
        if let Setting::Given(named, place) = &user.tenant
            && let Some(other) = tenants.iter().find(|tenant| tenant.members.users.contains(&user.name))
            && other.name != *named
        {
            report.fault(
                place,
                format!("tenant {} has this user already; a client belongs to one tenant", other.name),
            );
        }
        let name = tenant::named(&user.tenant, tenants, report).map(|tenant| tenant.name.clone());
        if let Some(tenant) = tenants.iter_mut().find(|tenant| Some(&tenant.name) == name.as_ref())
            && !tenant.members.users.contains(&user.name)
        {
            tenant.members.users.push(user.name.clone());
        }
        let source = user.upstream_password.map(PasswordSource::Read);
        let refresh = user.upstream_password_refresh;
        let account =
            upstream::account(user.upstream_username, source, refresh, upstream::USERS, env, report);
        match user.password {
            Setting::Given(password, _) => users.push(UserConfig { name: user.name, password, account }),
            Setting::Absent => report.fault(
                &user.place.sub_key("password-hash"),
                "is missing; make one with: respgate hash-password",
            ),
            Setting::Faulty => {}
        }
    }
    users
}
