//! Obtains the credentials of an account.

use crate::rotation::credentials;
use crate::rotation::source::Account;
use crate::secret::Credentials;

/// Returns the credentials of the account. Runs the program that prints the password, if the account has one.
pub(super) async fn obtain(account: &Option<Account>) -> Result<Option<Credentials>, String> {
    match account {
        None => Ok(None),
        Some(Account { credentials: Some(credentials), .. }) => Ok(Some(credentials.clone())),
        Some(account) => credentials::obtain(&account.source).await.map(Some),
    }
}
