//! Makes one test for each server, for each number of workers, or for each pair of both.

/// Makes the tests `NAME::on_valkey` and `NAME::on_redis`, which call `fn NAME(flavor: Flavor)` or the given closure.
///
/// With `workers: [1, 2]`, makes a test for each number of workers on each server, and calls
/// `fn NAME(flavor: Flavor, workers: usize)`.
macro_rules! on_both_servers {
    ($name:ident) => {
        on_both_servers!($name, super::$name);
    };
    ($name:ident, workers: [1, 2]) => {
        mod $name {
            use crate::support::servers::Flavor;

            #[test]
            fn on_valkey_with_one_worker() {
                super::$name(Flavor::Valkey, 1);
            }

            #[test]
            fn on_valkey_with_two_workers() {
                super::$name(Flavor::Valkey, 2);
            }

            #[test]
            fn on_redis_with_one_worker() {
                super::$name(Flavor::Redis, 1);
            }

            #[test]
            fn on_redis_with_two_workers() {
                super::$name(Flavor::Redis, 2);
            }
        }
    };
    ($name:ident, $body:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "a path needs no import")]
            use super::*;
            use crate::support::servers::Flavor;

            #[test]
            fn on_valkey() {
                let test: fn(Flavor) = $body;
                test(Flavor::Valkey);
            }

            #[test]
            fn on_redis() {
                let test: fn(Flavor) = $body;
                test(Flavor::Redis);
            }
        }
    };
}

/// Makes the tests `NAME::with_one_worker` and `NAME::with_two_workers`, which call `fn NAME(workers: usize)`.
macro_rules! with_one_and_two_workers {
    ($name:ident) => {
        mod $name {
            #[test]
            fn with_one_worker() {
                super::$name(1);
            }

            #[test]
            fn with_two_workers() {
                super::$name(2);
            }
        }
    };
}
