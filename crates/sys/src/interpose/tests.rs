//! The library in real programs.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use super::*;
use crate::map::Anonymous;
use crate::process::pass_descriptors;

const PAGE: u64 = 4096;

#[test]
fn a_program_is_told_limits_that_the_kernel_does_not_know() {
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = child.id();
    let mut command = Command::new("prlimit");
    command.args(["--nofile", "--raw", "--noheadings", "--output=SOFT,HARD", "--pid", &pid.to_string()]);
    command.stdout(std::process::Stdio::piped());
    let (calls, descriptors) = interpose(&mut command).unwrap();
    pass_descriptors(&mut command, descriptors);
    let program = command.spawn().unwrap();
    drop(command);
    let mut asked = Vec::new();
    calls
        .answer(|question| {
            asked.push(*question);
            Answer::Limit { soft: 123, hard: 4567 }
        })
        .unwrap();
    let output = program.wait_with_output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "123 4567\n");
    assert!(asked.contains(&Question::Limit { pid, resource: 7 }), "{asked:?}");
}

#[test]
fn without_anybody_to_ask_the_kernel_answers() {
    let mut command = Command::new("prlimit");
    command.args(["--nofile", "--raw", "--noheadings", "--output=SOFT", "--pid", &std::process::id().to_string()]);
    command.stdout(std::process::Stdio::piped());
    let (calls, descriptors) = interpose(&mut command).unwrap();
    drop(calls);
    pass_descriptors(&mut command, descriptors);
    let output = command.output().unwrap();
    let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{soft}\n"));
}

#[test]
fn a_program_reads_another_file_instead() {
    let mut file = std::fs::File::from(memfd_create("instead", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(b"told\n").unwrap();
    let directory = tempfile::tempdir().unwrap();
    for name in ["smaps", "maps"] {
        std::fs::write(directory.path().join(name), "read\n").unwrap();
    }
    // It opens files by their names in the directory, as CRIU does.
    let mut command = Command::new("grep");
    command.args(["-r", "--no-filename", "."]).arg(directory.path()).stdout(std::process::Stdio::piped());
    let (calls, descriptors) = interpose(&mut command).unwrap();
    pass_descriptors(&mut command, descriptors);
    let program = command.spawn().unwrap();
    drop(command);
    let mut asked = Vec::new();
    let answer = |question: &Question| match *question {
        Question::Mappings { pid, directory } => {
            asked.push(std::fs::read_link(format!("/proc/{pid}/fd/{directory}")).unwrap());
            Answer::Instead { descriptor: file.as_raw_fd() }
        }
        _ => Answer::Pass,
    };
    calls.answer(answer).unwrap();
    let output = program.wait_with_output().unwrap();
    let mut lines: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["read", "told"]);
    assert_eq!(asked, [directory.path()]);
}

#[test]
fn processes_that_ask_at_once_hear_each_its_own_answer() {
    let mut children: Vec<_> =
        (0..2).map(|_| std::process::Command::new("sleep").arg("1000").spawn().unwrap()).collect();
    let mut command = Command::new("sh");
    let script = "for i in $(seq 40); do for pid in $0 $1; do
        (echo $pid $(prlimit --nofile --raw --noheadings --output=SOFT --pid $pid)) & done; done; wait";
    command.args(["-c", script]).args(children.iter().map(|child| child.id().to_string()));
    command.stdout(std::process::Stdio::piped());
    let (calls, descriptors) = interpose(&mut command).unwrap();
    pass_descriptors(&mut command, descriptors);
    let program = command.spawn().unwrap();
    drop(command);
    let answer = |question: &Question| match *question {
        Question::Limit { pid, .. } => Answer::Limit { soft: pid.into(), hard: pid.into() },
        _ => Answer::Pass,
    };
    calls.answer(answer).unwrap();
    let output = program.wait_with_output().unwrap();
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 80);
    let mixed = text.lines().find(|line| line.split_once(' ').is_none_or(|(asked, heard)| asked != heard));
    assert_eq!(mixed, None);
}

#[test]
fn a_scan_that_finds_nothing_says_how_far_it_went() {
    let mut bytes = [0; QUESTION];
    for (index, value) in [ASK_SCAN, 9, 96, 0, 0x1000, 0x9000].into_iter().enumerate() {
        bytes[index * WORD..][..WORD].copy_from_slice(&value.to_ne_bytes());
    }
    assert_eq!(Question::parse(&bytes), None, "it looks for something else");
    bytes[12 * WORD..][..WORD].copy_from_slice(&PRESENT_OR_SWAPPED.to_ne_bytes());
    assert_eq!(Question::parse(&bytes), Some(Question::Scan { descriptor: 9, start: 0x1000, end: 0x9000 }));
    let answer: Vec<u8> = [1_u64, 0, 0x9000, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
    assert_eq!(Answer::Nothing { until: 0x9000 }.bytes(), answer);
}

/// Writes to three pages and says which of their entries it can see.
fn present_of_three() -> [bool; 3] {
    let memory = Anonymous::new(3 * PAGE as usize).unwrap();
    (0..3).for_each(|page| memory.write(page * PAGE as usize, 1));
    let mut entries = [0; 24];
    let map = std::fs::File::open("/proc/self/pagemap").unwrap();
    map.read_exact_at(&mut entries, memory.address() / PAGE * 8).unwrap();
    [0, 8, 16].map(|at| entries[at..at + 8] != [0; 8])
}

#[test]
fn a_program_that_reads_its_page_map_does_not_see_what_is_covered() {
    const INSIDE: &str = "DROVER_TEST_READS_ITS_PAGE_MAP";
    if std::env::var_os(INSIDE).is_some() {
        assert_eq!(present_of_three(), [true, false, true]);
        return;
    }
    // The program is this one, and does this test alone.
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = std::thread::current().name().unwrap().to_owned();
    command.args(["--exact", &name]).env(INSIDE, "yes").stdout(Stdio::piped());
    let (calls, descriptors) = interpose(&mut command).unwrap();
    pass_descriptors(&mut command, descriptors);
    let program = command.spawn().unwrap();
    drop(command);
    let mut asked = 0;
    let answer = |question: &Question| match *question {
        Question::Entries { start, end, .. } => {
            asked += 1;
            match (end - start) / PAGE {
                3 => Answer::Shorten { until: start + PAGE },
                2 => Answer::Nothing { until: start + PAGE },
                _ => Answer::Pass,
            }
        }
        _ => Answer::Pass,
    };
    calls.answer(answer).unwrap();
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(asked, 3);
    assert_eq!(present_of_three(), [true; 3], "nobody covers anything here");
}

/// The program of the next test.
#[test]
#[ignore = "a program, not a test"]
fn makes_a_directory() {
    let mut template = *b"yard.XXXXXX\0";
    // SAFETY: the template is a string of ours.
    let made = unsafe { libc::mkdtemp(template.as_mut_ptr().cast()) };
    assert!(!made.is_null(), "{}", std::io::Error::last_os_error());
}

/// Has a program make a directory after a shell has done something in its place, under its number. What there is then, and the
/// name after the program.
fn made_after(before: &str) -> (std::collections::BTreeSet<String>, String) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    let script = format!("{before}\nexec \"$0\" --exact interpose::tests::makes_a_directory --ignored");
    command.args(["-c", &script]).arg(std::env::current_exe().unwrap()).current_dir(&directory);
    let passed = hand_out_shared(&mut command).unwrap();
    pass_descriptors(&mut command, vec![passed]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let name = format!("yard.{}", mark_of(child.id()));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let names = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    (names.collect(), name)
}

/// The name of the process that runs it, for a shell: `mark_of`.
const OWN_NAME: &str = "n=$$; m=; for i in 1 2 3 4 5; do d=$((n % 36)); n=$((n / 36)); \
    m=$(printf %s 0123456789abcdefghijklmnopqrstuvwxyz | cut -c $((d + 1)))$m; done; name=yard.-$m";

#[test]
fn a_directory_of_a_criu_that_restores_is_named_after_it() {
    let (names, name) = made_after("true");
    assert_eq!(names, [name.clone()].into());
    // One that had this number before has left it.
    let (names, name) = made_after(&format!("{OWN_NAME}; mkdir $name"));
    assert_eq!(names, [name].into());
}

/// Whoever could make that name beforehand kept every container from being restored.
#[test]
fn a_directory_whose_name_is_taken_gets_another() {
    let (names, name) = made_after(&format!("{OWN_NAME}; mkdir $name; touch $name/in_the_way"));
    assert!(names.len() == 2 && names.contains(&name), "{names:?}");
}

#[test]
fn a_mark_tells_its_process_and_nothing_else_is_one() {
    for pid in [1, 35, 36, 4_194_304] {
        assert_eq!(marked(&mark_of(pid)), Some(pid));
    }
    for other in ["-0000", "-00000A", "00001", "a00001", "-+0001", "-0000Z", ""] {
        assert_eq!(marked(other), None, "{other}");
    }
}
