use super::*;
use crate::latency::Arrival;

const BLPOP: &[u8] = b"*3\r\n$5\r\nBLPOP\r\n$1\r\nl\r\n$1\r\n9\r\n";
const BLPOP_FOR_EVER: &[u8] = b"*3\r\n$5\r\nBLPOP\r\n$1\r\nl\r\n$1\r\n0\r\n";
const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n";

fn decision(
    request: &[u8],
    sent: bool,
    if_lost: IfLost,
    waited: Option<u64>,
    loss: (BlockedPop, bool),
) -> AfterLoss {
    decision_after(request, sent, if_lost, waited, loss, 0)
}

fn decision_after(
    request: &[u8],
    sent: bool,
    if_lost: IfLost,
    waited: Option<u64>,
    loss: (BlockedPop, bool),
    sends: u8,
) -> AfterLoss {
    let now = Instant::now();
    let since = waited.map(|seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap());
    let awaited = Awaited {
        effect: Effect::None,
        mute: false,
        if_lost,
        sends,
        queued: false,
        blocking: since,
        forgeable: false,
        arrival: Arrival::default(),
    };
    let loss = LostLease { now, resp: Resp::V2, blocked_pop: loss.0, unblocked: loss.1 };
    settle(&[&Expect::Reply(awaited)], &[(request, sent)], &loss).remove(0)
}

#[test]
fn a_sent_request_is_sent_again_only_if_the_policy_allows_it() {
    let of = |if_lost, sent| decision(SET, sent, if_lost, None, (BlockedPop::TimesOut, false));
    for if_lost in [IfLost::Resend, IfLost::ResendWrite] {
        assert_eq!(of(if_lost, true), AfterLoss::Resend(SET.to_vec()));
    }
    assert_eq!(of(IfLost::ReportUnknown, true), AfterLoss::Answer(unknown()));
    assert_eq!(of(IfLost::ReportLost, true), AfterLoss::Answer(RequestOutcome::Lost.reply()));
    for if_lost in [IfLost::ReportUnknown, IfLost::ReportLost] {
        assert_eq!(of(if_lost, false), AfterLoss::Resend(SET.to_vec()), "it did not run");
    }
}

#[test]
fn a_blocked_pop_times_out_or_goes_on() {
    let of = |request, policy| decision(request, true, IfLost::ReportUnknown, Some(4), policy);
    let rest = BLPOP.strip_suffix(b"$1\r\n9\r\n").unwrap();
    let rest = [rest, b"$5\r\n5.000\r\n"].concat();
    assert_eq!(of(BLPOP, (BlockedPop::TimesOut, false)), AfterLoss::Answer(b"*-1\r\n".to_vec()));
    assert_eq!(of(BLPOP_FOR_EVER, (BlockedPop::TimesOut, false)), AfterLoss::Answer(unknown()));
    assert_eq!(of(BLPOP, (BlockedPop::Continues, false)), AfterLoss::Resend(rest.clone()));
    assert_eq!(
        of(BLPOP_FOR_EVER, (BlockedPop::Continues, false)),
        AfterLoss::Resend(BLPOP_FOR_EVER.to_vec())
    );
    assert_eq!(
        of(BLPOP, (BlockedPop::TimesOut, true)),
        AfterLoss::Resend(rest),
        "it is known not to have popped"
    );
}

#[test]
fn a_blocked_read_is_a_read() {
    let request = b"*6\r\n$5\r\nXREAD\r\n$5\r\nBLOCK\r\n$1\r\n0\r\n$7\r\nSTREAMS\r\n$1\r\ns\r\n$1\r\n$\r\n";
    let of = |if_lost| decision(request, true, if_lost, Some(1), (BlockedPop::TimesOut, false));
    assert_eq!(of(IfLost::Resend), AfterLoss::Resend(request.to_vec()));
    assert_eq!(of(IfLost::ReportLost), AfterLoss::Answer(RequestOutcome::Lost.reply()));
}

#[test]
fn a_refused_command_takes_its_transaction_along_and_nothing_behind() {
    let expect = |effect, queued| {
        Expect::Reply(Awaited {
            effect,
            mute: false,
            if_lost: IfLost::ReportUnknown,
            queued,
            blocking: None,
            forgeable: false,
            arrival: Arrival::default(),
            sends: 0,
        })
    };
    let exec = || expect(Effect::Exec(Box::default()), false);
    let sent_after = |expects: &[Expect]| {
        let mut requests = vec![(SET, true); expects.len()];
        refuse_first(&expects.iter().collect::<Vec<_>>(), &mut requests);
        requests.into_iter().map(|(_, sent)| sent).collect::<Vec<_>>()
    };
    let (queued, plain) = (|| expect(Effect::None, true), || expect(Effect::None, false));
    assert_eq!(sent_after(&[queued(), queued(), exec(), plain()]), [false, false, false, true]);
    let another = [queued(), expect(Effect::Discard, false), expect(Effect::Multi, false), queued(), exec()];
    assert_eq!(sent_after(&another), [false, true, true, true, true], "only the one that it was in");
    assert_eq!(sent_after(&[plain(), plain()]), [false, true]);
    assert_eq!(sent_after(&[exec(), plain()]), [false, true]);
}

#[test]
fn a_request_that_loses_its_connection_each_time_is_given_up() {
    let of = |if_lost, sent, waited, sends| {
        decision_after(SET, sent, if_lost, waited, (BlockedPop::TimesOut, false), sends)
    };
    let again = AfterLoss::Resend(SET.to_vec());
    assert_eq!(of(IfLost::Resend, true, None, MAX_SENDS - 2), again);
    assert_eq!(
        of(IfLost::Resend, true, None, MAX_SENDS - 1),
        AfterLoss::Answer(RequestOutcome::GivenUp.reply())
    );
    assert_eq!(of(IfLost::ResendWrite, true, None, MAX_SENDS - 1), AfterLoss::Answer(unknown()));
    assert_eq!(of(IfLost::Resend, false, None, MAX_SENDS), again, "this time it was not sent");
    // A blocked command may see more failovers than that, so the limit does not apply to it.
    assert!(matches!(of(IfLost::Resend, true, Some(1), MAX_SENDS), AfterLoss::Resend(_)));
}

#[test]
fn a_group_called_block_is_no_timeout() {
    let encode = |words: &[&str]| {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut out = Vec::new();
        request::encode(&words, &mut out);
        out
    };
    let read =
        |timeout| encode(&["XREADGROUP", "GROUP", "BLOCK", "5", "BLOCK", timeout, "STREAMS", "s", ">"]);
    let (request, shorter) = (read("9000"), read("5000"));
    assert_eq!(with_remaining_timeout(&request, Duration::from_secs(4)), (shorter, false));
}
