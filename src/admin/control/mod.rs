//! Control: `POST /control/VERB` on the control socket, and on the admin listener with the token.

pub(super) mod access;
pub(super) mod action;
pub(super) mod client_list;
pub(super) mod clients;
mod offer;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use self::access::{Denied, Via};
pub use self::action::ACTION_NAMES;
use self::action::{Action, ActionError, LONGEST_BODY};
use self::client_list::{ActionResult, ClientListBody};
use super::connections::Activity;
use super::respond::{JSON, TEXT, respond};
use super::tap::{TapEndpoint, TapLines, TapRequest};
use crate::clients::directory::Directory;
use crate::drain::Switch;
use crate::latency::config::{LatencyConfig, ShownArguments};
use crate::latency::entry::Entry;
use crate::latency::tap::MAX_TAPS;
use crate::logs::LogFilter;
use crate::operator::{Operators, TargetParser};
use crate::rotation::{Prompter, ReadOutcome, Tally};
use crate::secret::Secret;
use crate::worker::Worker;

/// The time that a reload may take longer than other actions: several upstreams may move.
const RELOAD_TIME: Duration = Duration::from_secs(40);

/// The start of each path of control.
pub(super) const PREFIX: &str = "/control/";

/// The path that ends respgate without a token, if `shutdown-endpoint` is true.
pub(super) const SHUTDOWN_PATH: &str = "/shutdown";
/// The action that shows slow commands.
const SLOW_LOG: &str = "slow-log";

/// Time that a worker has to answer.
const WORKER_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks for an upgrade, and takes where to send its result: what has happened, or why nothing has.
pub type UpgradeRequests = mpsc::Sender<oneshot::Sender<Result<Value, String>>>;

/// The parts of the process that control acts on.
pub struct Control {
    /// The token for control through the admin listener; `None` permits no control there.
    pub token: Option<watch::Receiver<Secret>>,
    /// The token for reading through the admin listener; `None` lets everybody read.
    pub read_token: Option<watch::Receiver<Secret>>,
    /// Prompts a read of the configuration file.
    pub configuration: Prompter,
    /// The outcomes of reads of the configuration file; `None` if there is no file.
    pub reloads: Option<Tally>,
    /// Reaches the clients of all workers.
    pub clients: Directory,
    /// Takes orders for upstreams.
    pub operators: Operators,
    /// Checks where an upstream is switched to, given where it is.
    pub parse_target: TargetParser,
    /// The filter of the log.
    pub log: LogFilter,
    /// Begins the drain.
    pub drain: Switch,
    /// Is notified to end the process.
    pub shutdown: Arc<Notify>,
    /// Asks for an upgrade.
    pub upgrade: UpgradeRequests,
    /// Time that an upgrade may take.
    pub upgrade_timeout: Duration,
    /// True if `POST /shutdown` from loopback ends respgate.
    pub shutdown_endpoint: bool,
    /// The workers, which keep the slow log.
    pub workers: Vec<Worker>,
    /// How many slow commands are shown, and how.
    pub latency: watch::Receiver<LatencyConfig>,
}

/// The body of an answer: the whole, the lines of a tap, or a list of clients.
pub(super) type AnswerBody = Either<Full<Bytes>, Either<TapLines, ClientListBody>>;

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(
        "the slow log shows arguments (slow-log-arguments), so reading it needs the right to control: {0}"
    )]
    ArgumentsShown(Denied),
    #[error("control needs the method POST")]
    Method,
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error("the body has more than {LONGEST_BODY} bytes, or did not arrive: {0}")]
    Body(String),
    #[error("{0}")]
    Failed(String),
}

impl ControlError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Denied(denied) | Self::ArgumentsShown(denied) if denied.wants_token() => {
                StatusCode::UNAUTHORIZED
            }
            Self::Denied(_) | Self::ArgumentsShown(_) => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Action(ActionError::Unknown(_)) => StatusCode::NOT_FOUND,
            Self::Action(_) | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Failed(_) => StatusCode::CONFLICT,
        }
    }
}

impl Control {
    /// Returns how much longer than others the answer to a request for `path` may take.
    pub(super) fn time_to_answer(&self, path: &str) -> Duration {
        match path.strip_prefix(PREFIX) {
            Some("upgrade") => self.upgrade_timeout,
            Some("reload") => RELOAD_TIME,
            _ => Duration::ZERO,
        }
    }

    /// Answers a request whose path begins with [`PREFIX`]. Logs one line for each action that is done or refused. `lists`
    /// limits the number of lists of clients that are kept.
    pub(super) async fn answer(
        &self,
        via: &Via,
        request: Request<Incoming>,
        activity: &Activity,
        lists: &Arc<Semaphore>,
    ) -> Response<AnswerBody> {
        let name = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
        let result = self.handle(via, &name, request, lists).await;
        let by = shown(via);
        match result {
            Ok(ActionResult::Clients(list)) => {
                let result = format!("{} entries", list.clients());
                tracing::info!(action = name, by, result, "control: done");
                let mut response =
                    Response::new(Either::Right(Either::Right(list.body(name, activity.clone()))));
                response.headers_mut().insert(CONTENT_TYPE, JSON);
                response
            }
            Ok(ActionResult::Value(result)) => {
                tracing::info!(action = name, by, result = logged(&result), "control: done");
                let body = format!("{:#}\n", json!({ "action": name, "result": result }));
                respond(StatusCode::OK, JSON, body).map(Either::Left)
            }
            // The name of an unknown action is the peer's text, so the log shows it in the error only, quoted.
            Err(error) => {
                refuse(ACTION_NAMES.contains(&name.as_str()).then_some(&name), via, &error).map(Either::Left)
            }
        }
    }

    /// Answers a request for [`SHUTDOWN_PATH`]. Logs a line.
    pub(super) fn answer_shutdown(&self, via: &Via, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let by = shown(via);
        let permitted = match *request.method() {
            Method::POST => access::check_origin(via, request.headers()).map_err(ControlError::Denied),
            _ => Err(ControlError::Method),
        };
        match permitted {
            Ok(()) => {
                tracing::info!(by, "shutdown-endpoint: respgate drains and ends");
                self.shutdown.notify_one();
                respond(StatusCode::OK, TEXT, "draining, then respgate ends\n")
            }
            Err(error) => {
                tracing::warn!(by, %error, "shutdown-endpoint: refused");
                respond(error.status(), TEXT, format!("{error}\n"))
            }
        }
    }

    /// Returns which actions there are, and whether a request that comes like this one may take them, for `/status`.
    pub(super) fn offer(&self, via: &Via, headers: &HeaderMap) -> Value {
        let token = self.token.as_ref().map(|token| token.borrow().clone());
        let (permitted, needs_token, why) = match access::check(via, headers, token.as_ref()) {
            Ok(()) => (true, false, None),
            Err(Denied::TokenMissing | Denied::TokenWrong) => (true, true, None),
            Err(why) => (false, false, Some(why.to_string())),
        };
        json!({
            "permitted": permitted,
            "needs_token": needs_token,
            "why_not": why,
            "actions": offer::actions(),
        })
    }

    /// Returns the refusal of a request that may not read; `None` if it may.
    pub(super) fn refuse_reading(
        &self,
        via: &Via,
        request: &Request<Incoming>,
    ) -> Option<Response<Full<Bytes>>> {
        let newest =
            |token: &Option<watch::Receiver<Secret>>| token.as_ref().map(|token| token.borrow().clone());
        let (reading, control) = (newest(&self.read_token), newest(&self.token));
        let denied =
            access::check_reading(via, request.headers(), reading.as_ref(), control.as_ref()).err()?;
        let mut response = respond(StatusCode::UNAUTHORIZED, TEXT, format!("{denied}\n"));
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Some(response)
    }

    /// Answers `GET /slow` to who may read. Keys and arguments, if the log shows them, are only for who may control respgate.
    pub(super) async fn slow_log(&self, via: &Via, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let entries = self.slow_entries().await;
        // Entries stay as they are when a reload changes how new ones are shown.
        let shows = self.latency.borrow().arguments == ShownArguments::Show
            || entries.iter().any(|entry| entry.arguments == ShownArguments::Show);
        if shows && let Err(denied) = self.check(via, headers) {
            return refuse(Some(SLOW_LOG), via, &ControlError::ArgumentsShown(denied));
        }
        respond(StatusCode::OK, JSON, format!("{:#}\n", shown_entries(&entries)))
    }

    /// Begins a tap.
    ///
    /// # Errors
    /// Returns the answer that says why it cannot begin.
    pub(super) async fn tap(
        &self,
        via: &Via,
        request: Request<Incoming>,
        taps: &TapEndpoint,
        activity: &Activity,
    ) -> Result<TapLines, Response<Full<Bytes>>> {
        let began = async {
            let body = self.body(via, request).await?;
            let request =
                TapRequest::parse(&body).map_err(|why| ControlError::Action(ActionError::Argument(why)))?;
            tracing::info!(action = "tap", by = shown(via), ?request, "control: done");
            let lines = taps.begin(request, activity.clone()).await;
            lines.ok_or_else(|| {
                ControlError::Failed(format!("{MAX_TAPS} taps run already; end one of them first"))
            })
        };
        began.await.map_err(|error| refuse(Some("tap"), via, &error))
    }

    /// Checks that a request may control respgate.
    fn check(&self, via: &Via, headers: &HeaderMap) -> Result<(), Denied> {
        let token = self.token.as_ref().map(|token| token.borrow().clone());
        access::check(via, headers, token.as_ref())
    }

    /// Checks a request, and reads its body.
    async fn body(&self, via: &Via, request: Request<Incoming>) -> Result<Bytes, ControlError> {
        if request.method() != Method::POST {
            return Err(ControlError::Method);
        }
        self.check(via, request.headers())?;
        let body = Limited::new(request.into_body(), LONGEST_BODY).collect().await;
        Ok(body.map_err(|error| ControlError::Body(error.to_string()))?.to_bytes())
    }

    /// Returns the newest slow commands of all workers, the newest first.
    async fn slow_entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for worker in &self.workers {
            let asked = tokio::time::timeout(WORKER_TIMEOUT, worker.slow_commands()).await;
            entries.extend(asked.ok().flatten().unwrap_or_default());
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        entries.truncate(self.latency.borrow().slow_length);
        entries
    }

    async fn handle(
        &self,
        via: &Via,
        name: &str,
        request: Request<Incoming>,
        lists: &Arc<Semaphore>,
    ) -> Result<ActionResult, ControlError> {
        let body = self.body(via, request).await?;
        self.perform(Action::parse(name, &body)?, &shown(via), lists).await.map_err(ControlError::Failed)
    }

    /// Does an action that `by` asks for. Returns its result for people and machines.
    ///
    /// # Errors
    /// Returns why it could not be done.
    async fn perform(
        &self,
        action: Action,
        by: &str,
        lists: &Arc<Semaphore>,
    ) -> Result<ActionResult, String> {
        Ok(ActionResult::Value(match action {
            Action::Clients(action) => return action.perform(&self.clients, &self.operators, lists).await,
            Action::Reload => self.reload().await?,
            Action::LogLevel(level) => {
                let before = self.log.set(&level)?;
                json!({ "level": level, "before": before })
            }
            Action::Pause { upstream, pause, deadline } => self.pause(&upstream, pause, deadline, by).await?,
            Action::Resume { upstream } => self.resume(&upstream).await?,
            Action::Reconnect { upstream } => self.reconnect(&upstream).await?,
            Action::Switch { upstream, to, proof } => self.switch(&upstream, to, proof, by).await?,
            Action::SlowLog => shown_entries(&self.slow_entries().await),
            Action::Drain => {
                self.drain.begin();
                "draining: no new clients; running commands finish".into()
            }
            Action::Upgrade => self.upgrade().await?,
            Action::Shutdown => {
                self.shutdown.notify_one();
                "draining, then respgate ends".into()
            }
        }))
    }

    async fn upgrade(&self) -> Result<Value, String> {
        let (answer, answered) = oneshot::channel();
        // The queue is full while an upgrade is under way.
        self.upgrade
            .try_send(answer)
            .map_err(|_| "an upgrade is under way, or respgate is about to end".to_owned())?;
        answered.await.map_err(|_| "respgate is about to end".to_owned())?
    }

    async fn reload(&self) -> Result<Value, String> {
        let outcome = self.configuration.read_now().await;
        let restart = self.reloads.as_ref().map(|tally| tally.outcomes().restart).unwrap_or_default();
        match outcome {
            None => Err("respgate runs without a configuration file".into()),
            Some(ReadOutcome::Refused(why)) => {
                Err(format!("the file cannot be used, and the former configuration stays in force: {why}"))
            }
            Some(ReadOutcome::Stuck) => Err("the file could not be read in time; see the log".into()),
            Some(ReadOutcome::Piped) => {
                Err("the configuration came through a pipe, which cannot be read again".into())
            }
            Some(outcome) => Ok(json!({
                "configuration": if outcome == ReadOutcome::Replaced { "changed" } else { "unchanged" },
                "needs-restart": restart[..],
            })),
        }
    }
}

fn shown_entries(entries: &[Entry]) -> Value {
    entries.iter().map(Entry::json).collect()
}

/// Returns a result for the log: of a list, its length only.
fn logged(result: &Value) -> String {
    match result {
        Value::Array(items) => format!("{} entries", items.len()),
        result => result.to_string(),
    }
}

/// Logs a refusal, and returns its answer.
fn refuse(action: Option<&str>, via: &Via, error: &ControlError) -> Response<Full<Bytes>> {
    tracing::warn!(action, by = shown(via), %error, "control: refused");
    let body = format!("{:#}\n", json!({ "error": error.to_string() }));
    let mut response = respond(error.status(), JSON, body);
    let header = match error.status() {
        StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        StatusCode::METHOD_NOT_ALLOWED => Some((ALLOW, HeaderValue::from_static("POST"))),
        _ => None,
    };
    response.headers_mut().extend(header);
    response
}

/// Returns who controls, for the log.
fn shown(via: &Via) -> String {
    match via {
        Via::Socket(Some(uid)) => format!("uid {uid}"),
        Via::Socket(None) => "the control socket".into(),
        Via::Tcp { peer, .. } => peer.to_string(),
    }
}
