use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tokio::sync::mpsc;

use super::*;

const INTERVAL: Duration = Duration::from_millis(10);

/// Follows one file whose content must be a number.
struct Followed {
    adopted: mpsc::UnboundedReceiver<u32>,
    tally: Tally,
    task: tokio::task::JoinHandle<()>,
}

impl Followed {
    fn start(path: &Path) -> Self {
        let (adopt, adopted) = mpsc::unbounded_channel();
        let tally = Tally::new("number", "test");
        let file = path.to_owned();
        let source = Source::new(vec![path.to_owned()], move || {
            let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
            text.trim().parse().map_err(|_| format!("{text:?} is no number"))
        });
        let task = tokio::spawn(follow(source, INTERVAL, tally.clone(), move |number| {
            let _ = adopt.send(number);
        }));
        Self { adopted, tally, task }
    }

    async fn next(&mut self) -> u32 {
        self.adopted.recv().await.unwrap()
    }

    async fn error(&self) -> String {
        loop {
            if let Some(error) = self.tally.outcomes().error {
                return error.to_string();
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn end(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        assert_eq!(self.adopted.recv().await, None, "adopted once too often");
    }
}

#[tokio::test]
async fn every_way_to_replace_a_file_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Kubernetes mounts a secret like this: the file is a link through `..data`, which is a link to a dated folder.
    for (version, number) in [("v1", "1"), ("v2", "2")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("number"), number).unwrap();
    }
    symlink("v1", path("..data")).unwrap();
    symlink("..data/number", path("number")).unwrap();
    let mut followed = Followed::start(&path("number"));
    assert_eq!(followed.next().await, 1);
    symlink("v2", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    fs::remove_dir_all(path("v1")).unwrap();
    assert_eq!(followed.next().await, 2);
    // A write in place, and a rename.
    fs::write(path("v2").join("number"), "3").unwrap();
    assert_eq!(followed.next().await, 3);
    fs::write(path("new"), "4").unwrap();
    fs::rename(path("new"), path("v2").join("number")).unwrap();
    assert_eq!(followed.next().await, 4);
    assert_eq!(followed.tally.outcomes().replaced, 3);
    assert_eq!(followed.tally.outcomes().refused, 0);
    followed.end().await;
}

#[tokio::test]
async fn a_bad_set_keeps_the_old_one_and_is_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("number");
    fs::write(&path, "1").unwrap();
    let mut followed = Followed::start(&path);
    assert_eq!(followed.next().await, 1);
    fs::write(&path, "one").unwrap();
    assert_eq!(followed.error().await, "\"one\" is no number");
    tokio::time::sleep(INTERVAL * 5).await;
    assert_eq!(followed.tally.outcomes().refused, 1);
    fs::remove_file(&path).unwrap();
    while followed.tally.outcomes().refused == 1 {
        tokio::time::sleep(INTERVAL).await;
    }
    fs::write(&path, "2").unwrap();
    assert_eq!(followed.next().await, 2);
    assert_eq!(followed.tally.outcomes().error, None);
    followed.end().await;
}

#[tokio::test]
async fn a_prompt_is_answered_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("number");
    fs::write(&path, "1").unwrap();
    let ((prompter, prompts), tally, file) = (prompts(), Tally::new("number", "test"), path.clone());
    let load = move || {
        let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
        text.parse::<u32>().map_err(|_| format!("{text:?} is no number"))
    };
    let (adopt, mut adopted) = mpsc::unbounded_channel();
    let counted = tally.clone();
    let task = tokio::spawn(async move {
        let adopt = move |number, replaces| {
            let _ = adopt.send(number);
            ready(if number == 3 {
                Err(NotAdopted::ForNow("3 cannot be used now".into()))
            } else {
                Ok(replaces)
            })
        };
        let hour = Duration::from_secs(3600);
        follow_promptly(Source::new(vec![path], load), hour, counted, prompts, adopt).await;
    });
    assert_eq!(adopted.recv().await, Some(1));
    assert_eq!(prompter.read_now().await, Some(ReadOutcome::Unchanged));
    fs::write(folder.path().join("number"), "one").unwrap();
    let refused = ReadOutcome::Refused("\"one\" is no number".into());
    assert_eq!(prompter.read_now().await, Some(refused.clone()));
    assert_eq!(prompter.read_now().await, Some(refused), "a file that has not changed is still refused");
    fs::write(folder.path().join("number"), "2").unwrap();
    assert_eq!(prompter.read_now().await, Some(ReadOutcome::Replaced));
    assert_eq!(adopted.recv().await, Some(2));
    assert_eq!((tally.outcomes().refused, tally.outcomes().error), (1, None));
    // What loads and cannot be used is refused, and tried again each time.
    fs::write(folder.path().join("number"), "3").unwrap();
    let refused = ReadOutcome::Refused("3 cannot be used now".into());
    for _ in 0..2 {
        assert_eq!(prompter.read_now().await, Some(refused.clone()));
        assert_eq!(adopted.recv().await, Some(3));
    }
    assert_eq!((tally.outcomes().refused, &*tally.outcomes().error.unwrap()), (2, "3 cannot be used now"));
    fs::write(folder.path().join("number"), "2").unwrap();
    assert_eq!(
        prompter.read_now().await,
        Some(ReadOutcome::Replaced),
        "the same number counts as another version here"
    );
    assert_eq!(adopted.recv().await, Some(2));
    task.abort();
}

#[tokio::test]
async fn a_set_refused_for_good_is_tried_again_only_when_prompted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("number");
    fs::write(&path, "1").unwrap();
    let ((prompter, prompts), tally, file) = (prompts(), Tally::new("number", "test"), path.clone());
    let (adopt, mut adopted) = mpsc::unbounded_channel();
    let load = move || Ok(fs::read_to_string(&file).unwrap().parse::<u32>().unwrap());
    let counted = tally.clone();
    let task = tokio::spawn(async move {
        let adopt = move |number, replaces| {
            let _ = adopt.send(number);
            ready(if number == 1 { Ok(replaces) } else { Err(NotAdopted::ForGood("not this one".into())) })
        };
        follow_promptly(Source::new(vec![path], load), INTERVAL, counted, prompts, adopt).await;
    });
    assert_eq!(adopted.recv().await, Some(1));
    fs::write(folder.path().join("number"), "2").unwrap();
    assert_eq!(adopted.recv().await, Some(2));
    tokio::time::sleep(10 * INTERVAL).await;
    assert_eq!((adopted.try_recv().ok(), tally.outcomes().refused), (None, 1), "it was not tried again");
    assert_eq!(prompter.read_now().await, Some(ReadOutcome::Refused("not this one".into())));
    assert_eq!((adopted.recv().await, tally.outcomes().refused), (Some(2), 2));
    fs::write(folder.path().join("number"), "1").unwrap();
    assert_eq!(adopted.recv().await, Some(1));
    task.abort();
}

#[tokio::test]
async fn a_stuck_read_is_reported_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("number");
    fs::write(&path, "1").unwrap();
    let ((prompter, prompts), tally, file) = (prompts(), Tally::new("number", "test"), path.clone());
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    let load = move || {
        let number = fs::read_to_string(&file).unwrap().parse::<u32>().unwrap();
        if number == 2 {
            let _noted = crate::files::note(&file);
            let _ = ended.lock().unwrap().recv();
        }
        Ok(number)
    };
    let (adopt, mut adopted) = mpsc::unbounded_channel();
    let counted = tally.clone();
    let source = Source { limit: Duration::from_millis(200), ..Source::new(vec![path.clone()], load) };
    let task = tokio::spawn(async move {
        let adopt = move |number, replaces| {
            let _ = adopt.send(number);
            ready(Ok(replaces))
        };
        follow_promptly(source, INTERVAL, counted, prompts, adopt).await;
    });
    assert_eq!(adopted.recv().await, Some(1));
    fs::write(&path, "2").unwrap();
    while tally.outcomes().stuck.is_none() {
        tokio::time::sleep(INTERVAL).await;
    }
    assert!(tally.outcomes().stuck.unwrap().contains(path.to_str().unwrap()));
    // Another version is read on another thread while the first read is still stuck.
    fs::write(&path, "3").unwrap();
    assert_eq!(prompter.read_now().await, Some(ReadOutcome::Replaced));
    assert_eq!(adopted.recv().await, Some(3));
    assert_eq!(tally.outcomes().stuck, None);
    drop(end);
    task.abort();
}
