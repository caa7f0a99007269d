//! The macro that declares the keys of one part of a table.
//!
//! A part is declared in lines such as these:
//!
//! ```text
//! table! {
//!     /// The subject of the part.
//!     ConnectionKeys, ConnectionDefaults {
//!         /// The time that a command waits for a free leased connection.
//!         lease_timeout: Duration = Duration::from_secs(5), "lease-timeout", Restart;
//!     }
//! }
//! ```
//!
//! A line names the field, the [`Kind`](super::Kind) of its value, the default if it is one value, the key, and whether a reload
//! applies a change (`Live`) or a restart is needed (`Restart`). These may follow, in this order:
//!
//! - `formerly "lease-wait"`: the key's deprecated name, which works for one more version with a warning.
//! - `unit "connections"`: what a whole number counts.
//! - `default "none"`: the default in words, where it is not one value; `default required` if the key must be there.
//! - `example "\"5s\""`: the value in `config/full.toml`, where the default is not a good one.
//! - `aside "instead of `address`"`: `config/full.toml` shows the key in a comment, with this remark.
//!
//! The comment above a line is the key's documentation. Its first paragraph also stands in `config/full.toml` and in the JSON Schema.
//! A block named `groups` includes other parts: `tls: ClientTlsKeys, prefix "sentinel-";`. These may follow, in this order:
//!
//! - `about "Works like KEY, …"`: the documentation of its keys, instead of their own.
//! - `home "limits"`: the table that documents its keys.
//! - `reload Live`: when a change of its keys has its effect, if that differs.
//! - `aside "optional"`: `config/full.toml` shows all its keys in comments.
//! - `defaults { "tls": "…" }`: defaults in words that differ from those of the part.
//!
//! The macro makes a struct with one [`Setting`](super::super::setting::Setting) for each key, the reader that fills it, the list
//! of [`Entry`](super::Entry)s, and a type with one function for each default.

macro_rules! table {
    (
        $(#[doc = $about:literal])*
        $name:ident, $defaults:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident: $kind:ty $(= $default:expr)?, $key:literal, $reload:ident
                $(, formerly $former:literal)? $(, unit $unit:literal)? $(, default $text:tt)? $(, example $example:literal)?
                $(, aside $aside:literal)?;
            )*
        }
        groups {
            $(
                $(#[doc = $group_doc:literal])*
                $group:ident: $part:ty, prefix $prefix:literal
                $(, about $group_about:literal)? $(, home $home:literal)? $(, reload $group_reload:ident)? $(, aside $group_aside:literal)?
                $(, defaults { $($of:literal: $group_default:literal),* })?;
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $crate::config::setting::Setting<<$kind as $crate::config::schema::kinds::Kind>::Value>,)*
            $($(#[doc = $group_doc])* pub $group: $part,)*
        }

        const _: () = {
            #[allow(unused_imports, reason = "a part may have no keys or no groups")]
            use $crate::config::{
                document::Section,
                report::Report,
                schema::{
                    entry::{DefaultValue, Entry, Group, Key, Reload},
                    kinds::Kind,
                    part::Part,
                    shape::Shown,
                },
            };

            impl Part for $name {
                const ENTRIES: &'static [Entry] = &[
                    $(Entry::Key(Key {
                        name: $key,
                        former_name: table!(@option $($former)?),
                        shape: <$kind as Kind>::SHAPE,
                        unit: table!(@option $($unit)?),
                        default: table!(@default [$($default => $defaults::$field)?] [$($text)?]),
                        reload: Reload::$reload,
                        example: table!(@option $($example)?),
                        aside: table!(@option $($aside)?),
                        description: concat!($($doc, "\n"),*),
                    }),)*
                    $(Entry::Group(Group {
                        prefix: $prefix,
                        entries: <$part as Part>::ENTRIES,
                        about: table!(@option $($group_about)?),
                        home: table!(@option $($home)?),
                        reload: table!(@reload $($group_reload)?),
                        aside: table!(@option $($group_aside)?),
                        defaults: &[$($(($of, $group_default)),*)?],
                    }),)*
                ];

                #[allow(unused_variables, reason = "a part may have no keys of its own")]
                fn read(
                    section: &Section<'_>,
                    prefix: &str,
                    folder: &std::path::Path,
                    report: &mut Report,
                ) -> Self {
                    Self {
                        $($field: <$kind as Kind>::read(section, &format!("{prefix}{}", $key), folder, report),)*
                        $($group: <$part as Part>::read(section, &format!("{prefix}{}", $prefix), folder, report),)*
                    }
                }
            }
        };

        #[doc = concat!("The defaults of [`", stringify!($name), "`].")]
        #[allow(dead_code, reason = "a part may have no default that is one value")]
        pub struct $defaults;

        impl $defaults {
            $($(
                #[doc = concat!("Returns the default of `", $key, "`.")]
                pub fn $field() -> <$kind as $crate::config::schema::kinds::Kind>::Value {
                    $default
                }
            )?)*
        }
    };
    ($(#[doc = $about:literal])* $name:ident, $defaults:ident { $($keys:tt)* }) => {
        table! { $(#[doc = $about])* $name, $defaults { $($keys)* } groups {} }
    };
    (@reload) => { None };
    (@reload $reload:ident) => { Some(Reload::$reload) };
    (@option) => { None };
    (@option $value:literal) => { Some($value) };
    (@default [$default:expr => $function:path] []) => { DefaultValue::Value(|| Shown::shown(&$function())) };
    (@default [] [required]) => { DefaultValue::Required };
    (@default [] [$text:literal]) => { DefaultValue::Text($text) };
}
