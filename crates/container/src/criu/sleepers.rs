//! Letting threads sleep on that were dumped asleep.
//!
//! A freeze interrupts `nanosleep(2)`, `clock_nanosleep(2)` and `poll(2)`; on a thaw the kernel takes them up again, by
//! what it remembers (`restart_syscall(2)`). What it remembers is not in CRIU's images: there the call has failed with
//! EINTR, which a program without a signal handler need not expect (`sleep 1000` of busybox ends). So the registers in
//! the image are set back to before the call, as the kernel does for calls that it begins anew.
//!
//! Source of the format: CRIU's `images/core.proto` and `images/core-x86.proto`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::calls::{Call, SYSCALL, threads};
use super::wire::Fields;

/// `core_entry.thread_info`, `thread_info_x86.gpregs`, and registers in `user_x86_regs_entry`.
const THREAD_INFO: u64 = 2;
const REGISTERS: u64 = 2;
const AX: u64 = 11;
const SI: u64 = 14;
const DX: u64 = 13;
const R10: u64 = 8;
const R9: u64 = 9;
const R8: u64 = 10;
const DI: u64 = 15;
const ORIG_AX: u64 = 16;
const IP: u64 = 17;
const SP: u64 = 20;

/// The result -EINTR.
const INTERRUPTED: u64 = -4_i64 as u64;
/// What `orig_ax` is of a thread that came into the kernel otherwise than by a call.
const IN_NO_CALL: u64 = u64::MAX;
const POLL: u64 = 7;
const NANOSLEEP: u64 = 35;
const RESTART: u64 = 219;
const CLOCK_NANOSLEEP: u64 = 230;
/// An image is two magic numbers and a length, then the message.
const HEAD: usize = 12;

/// What sleeping threads are doing, looked at before anything interrupts them: afterwards the kernel says
/// `restart_syscall`, and no longer which call that is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sleepers(BTreeMap<u32, Call>);

impl Sleepers {
    /// Looks at all threads of the given processes. What was known of one that is in the same call still is, and of one that
    /// is in none: it may be about to take the call up again.
    pub fn look(&mut self, pids: &[u32]) {
        let mut seen = BTreeMap::new();
        for (thread, call) in threads(pids) {
            let known = self.0.remove(&thread);
            let call = match call {
                None => known,
                Some(call) if call.number == RESTART => known.filter(|known| call.goes_on(known)),
                other => other,
            };
            seen.extend(call.map(|call| (thread, call)));
        }
        self.0 = seen;
    }
}

/// Changes the images of the threads of the frozen process `pid`.
///
/// # Errors
/// When an image can be neither read nor written.
pub(crate) fn let_sleep(pid: u32, images: &Path, sleepers: &Sleepers) -> io::Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        let status = fs::read_to_string(thread.join("status"))?;
        let Some(inside) = line(&status, "NSpid:").and_then(|ids| ids.split_whitespace().next_back()) else { continue };
        let image = images.join(format!("core-{inside}.img"));
        // A signal that waits for its handler interrupts the call here, too.
        if !image.exists() || signalled(&status) {
            continue;
        }
        let bytes = fs::read(&image)?;
        let id = thread.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let known = id.and_then(|id: u32| sleepers.0.get(&id));
        if let Some(changed) = begin_anew(&bytes, known, |address| code_before(&thread, address)) {
            let temporary = PathBuf::from(format!("{}.new", image.display()));
            fs::write(&temporary, changed)?;
            fs::rename(temporary, image)?;
        }
    }
    Ok(())
}

/// The call that a thread is in by its registers in the image, as the kernel would tell it. The kernel itself is not asked: of
/// a thread that CRIU has just let go it may say that it runs.
fn in_call(registers: &Fields) -> Option<Call> {
    let place = [DI, SI, DX, R10, R8, R9, SP, IP].map(|register| Some(format!("{:#x}", registers.number(register)?)));
    Some(Call { number: registers.number(ORIG_AX)?, place: place.into_iter().collect::<Option<_>>()? })
}

/// Whether an interrupted call is `clock_nanosleep(2)` for some time: of the calls that the kernel takes up again it alone
/// begins with a number, the clock, and has an address in the third place. (`poll(2)` of nothing has its timeout there.)
fn sleeps_by_a_clock(registers: &Fields) -> Option<bool> {
    const CLOCKS: u64 = 16;
    let [clock, flags, request] = [DI, SI, DX].map(|register| registers.number(register));
    Some(clock? < CLOCKS && flags? == 0 && request? > u64::from(u32::MAX))
}

fn line<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// Whether a signal is pending that is not blocked.
fn signalled(status: &str) -> bool {
    let set = |name| line(status, name).and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    (set("SigPnd:") | set("ShdPnd:")) & !set("SigBlk:") != 0
}

/// The seven bytes of code before an address: room for `mov $number, %eax; syscall`.
fn code_before(thread: &Path, address: u64) -> Option<[u8; 7]> {
    let mut code = [0; 7];
    let memory = File::open(thread.join("mem")).ok()?;
    memory.read_exact_at(&mut code, address.checked_sub(7)?).ok()?;
    Some(code)
}

/// The image of a thread (`core-N.img`) with the call begun anew that it is in, if there is one that must not fail. `known` is
/// the call in which somebody saw the thread, `code_before` gives the seven bytes of code before an address.
#[must_use]
pub fn begin_anew(image: &[u8], known: Option<&Call>, code_before: impl Fn(u64) -> Option<[u8; 7]>) -> Option<Vec<u8>> {
    let (head, body) = image.split_at_checked(HEAD)?;
    let length = u32::from_le_bytes(head[8..].try_into().expect("four bytes"));
    let mut core = Fields::parse(body.get(..usize::try_from(length).ok()?)?)?;
    let mut thread = core.message(THREAD_INFO)?;
    let mut registers = thread.message(REGISTERS)?;
    let ip = match registers.number(AX)? {
        INTERRUPTED => registers.number(IP)?,
        // It was let go a moment before, and has not come to take the call up again.
        RESTART => registers.number(IP)?.checked_add(SYSCALL.len() as u64)?,
        _ => return None,
    };
    let code = code_before(ip)?;
    if code[5..] != SYSCALL {
        return None;
    }
    let number = match (registers.number(AX)?, registers.number(ORIG_AX)?) {
        // Interrupted before, it was `restart_syscall` since. Somebody saw which one it was at first, or it stands in the
        // code, or nothing else has such arguments.
        (_, RESTART) | (RESTART, IN_NO_CALL) => {
            let call = in_call(&registers);
            match known.filter(|known| call.is_some_and(|call| call.goes_on(known))) {
                Some(known) => known.number,
                None if code[0] == 0xb8 => u64::from(u32::from_le_bytes(code[1..5].try_into().expect("four bytes"))),
                None if sleeps_by_a_clock(&registers)? => CLOCK_NANOSLEEP,
                None => RESTART,
            }
        }
        (_, number) => number,
    };
    let times = |request: u64, remaining: u64| Some((registers.number(request)?, registers.number(remaining)?));
    let anew = match number {
        POLL => true,
        // With room for the remaining time elsewhere the program is prepared for EINTR; with none it begins anew; in
        // the room of the request the remaining time stands there already.
        NANOSLEEP => times(DI, SI).is_some_and(|(request, remaining)| remaining == 0 || remaining == request),
        CLOCK_NANOSLEEP => times(DX, R10).is_some_and(|(request, remaining)| remaining == 0 || remaining == request),
        _ => false,
    };
    if !anew {
        return None;
    }
    registers.set_number(AX, number);
    registers.set_number(IP, ip.checked_sub(SYSCALL.len() as u64)?);
    thread.set_message(REGISTERS, &registers);
    core.set_message(THREAD_INFO, &thread);
    let body = core.encode();
    let mut changed = head[..8].to_vec();
    changed.extend(u32::try_from(body.len()).ok()?.to_le_bytes());
    changed.extend(body);
    Some(changed)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Registers {
        #[prost(uint64, required, tag = "8")]
        r10: u64,
        #[prost(uint64, required, tag = "9")]
        r9: u64,
        #[prost(uint64, required, tag = "10")]
        r8: u64,
        #[prost(uint64, required, tag = "11")]
        ax: u64,
        #[prost(uint64, required, tag = "13")]
        dx: u64,
        #[prost(uint64, required, tag = "14")]
        si: u64,
        #[prost(uint64, required, tag = "15")]
        di: u64,
        #[prost(uint64, required, tag = "16")]
        orig_ax: u64,
        #[prost(uint64, required, tag = "17")]
        ip: u64,
        #[prost(uint64, required, tag = "20")]
        sp: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Thread {
        #[prost(uint64, required, tag = "1")]
        clear: u64,
        #[prost(message, required, tag = "2")]
        registers: Registers,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Core {
        #[prost(uint32, required, tag = "1")]
        machine: u32,
        #[prost(message, required, tag = "2")]
        thread: Thread,
    }

    /// What becomes of the registers; `None` when nothing changes. The code is `mov $CALL, %eax; syscall`.
    fn changed(registers: Registers, call: u8) -> Option<Registers> {
        changed_with(registers, None, [0xb8, call, 0, 0, 0])
    }

    /// The same with what is known of the thread, and the code before `syscall`.
    fn changed_with(registers: Registers, known: Option<&Call>, code: [u8; 5]) -> Option<Registers> {
        let core = Core { machine: 1, thread: Thread { clear: 5, registers } };
        let body = core.encode_to_vec();
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        let image = [&[9_u8; 8][..], &length, &body].concat();
        let changed = begin_anew(&image, known, |address| {
            assert_eq!(address, 0x4000);
            let [a, b, c, d, e] = code;
            Some([a, b, c, d, e, 0x0f, 0x05])
        })?;
        assert_eq!(changed[..8], [9; 8]);
        let core = Core::decode(&changed[HEAD..]).unwrap();
        assert_eq!((core.machine, core.thread.clear), (1, 5));
        Some(core.thread.registers)
    }

    fn asleep(orig_ax: u64) -> Registers {
        Registers { ax: INTERRUPTED, orig_ax, ip: 0x4000, dx: 0x10, r10: 0x10, sp: 0x7ffd00, ..Registers::default() }
    }

    /// The kernel was asked what it did, and said that it ran: busybox's `sleep 1000` ended once in 300 moves on a busy machine.
    #[test]
    fn a_sleep_is_known_by_its_registers_when_its_thread_was_let_go_a_moment_ago() {
        let call = |text| Call::parse(text).unwrap();
        let known = call("230 0x0 0x0 0x10 0x10 0x0 0x0 0x7ffd00 0x4000");
        let after = changed_with(asleep(RESTART), Some(&known), [0; 5]).unwrap();
        assert_eq!((after.ax, after.ip), (CLOCK_NANOSLEEP, 0x3ffe));
        let elsewhere = call("230 0x0 0x0 0x10 0x10 0x0 0x0 0x7ffe00 0x4000");
        assert_eq!(changed_with(asleep(RESTART), Some(&elsewhere), [0; 5]), None);
    }

    #[test]
    fn a_sleep_is_begun_anew_although_its_thread_has_left_the_kernel_already() {
        let known = Call::parse("230 0x0 0x0 0x10 0x10 0x0 0x0 0x7ffd00 0x4000").unwrap();
        let left = Registers { ax: RESTART, ip: 0x4000 - 2, ..asleep(IN_NO_CALL) };
        assert_eq!(changed_with(left, Some(&known), [0; 5]).unwrap().ax, CLOCK_NANOSLEEP);
        assert_eq!(changed_with(asleep(IN_NO_CALL), Some(&known), [0; 5]), None, "it has failed before");
    }

    #[test]
    fn a_sleep_of_which_nothing_is_known_is_told_by_its_arguments() {
        let sleeping = Registers { dx: 0x7ffd_0012_1138, r10: 0, ..asleep(RESTART) };
        assert_eq!(changed_with(sleeping.clone(), None, [0; 5]).unwrap().ax, CLOCK_NANOSLEEP);
        let polls = Registers { dx: 5000, ..sleeping.clone() };
        let until = Registers { si: 1, ..sleeping.clone() };
        let futex = Registers { di: 0x7f00_0000_0000, ..sleeping };
        for other in [polls, until, futex] {
            assert_eq!(changed_with(other, None, [0; 5]), None);
        }
    }

    #[test]
    fn a_sleep_is_begun_anew() {
        let after = changed(asleep(CLOCK_NANOSLEEP), 230).unwrap();
        assert_eq!((after.ax, after.ip), (CLOCK_NANOSLEEP, 0x3ffe));
        assert_eq!((after.dx, after.r10), (0x10, 0x10));
    }

    #[test]
    fn a_sleep_that_was_interrupted_before_is_known_by_its_code() {
        assert_eq!(changed(asleep(RESTART), 230).unwrap().ax, CLOCK_NANOSLEEP);
        assert_eq!(changed(asleep(RESTART), 202), None, "futex");
    }

    #[test]
    fn a_sleep_that_is_about_to_be_taken_up_again_is_begun_anew() {
        let about_to = Registers { ax: RESTART, ip: 0x4000 - 2, ..asleep(CLOCK_NANOSLEEP) };
        let after = changed(about_to, 230).unwrap();
        assert_eq!((after.ax, after.ip), (CLOCK_NANOSLEEP, 0x3ffe));
        assert_eq!(changed(Registers { ax: RESTART, ip: 0x4000 - 2, ..asleep(202) }, 202), None, "futex");
    }

    #[test]
    fn what_was_known_of_a_thread_that_runs_for_a_moment_is_not_forgotten() {
        let call = |text| Call::parse(text).unwrap();
        let known = call("230 0x0 0x0 0x7ffd10 0x7ffd10 0x0 0x0 0x7ffd00 0x7f5003");
        assert!(call("219 0x0 0x0 0x7ffd10 0x7ffd10 0x0 0x0 0x7ffd00 0x7f5003").goes_on(&known));
        assert!(call("230 0x0 0x0 0x7ffd10 0x7ffd10 0x0 0x0 0x7ffd00 0x7f5001").goes_on(&known));
        assert!(!call("219 0x0 0x0 0x7ffd10 0x7ffd10 0x0 0x0 0x7ffd00 0x7f5010").goes_on(&known));
        let mut runs = std::process::Command::new("sh")
            .args(["-c", "echo begun; while :; do :; done"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = runs.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        while std::fs::read_to_string(format!("/proc/{}/syscall", runs.id())).unwrap() != "running\n" {
            std::thread::yield_now();
        }
        let mut sleepers = Sleepers(BTreeMap::from([(runs.id(), known.clone())]));
        sleepers.look(&[runs.id()]);
        runs.kill().unwrap();
        runs.wait().unwrap();
        assert_eq!(sleepers.0.get(&runs.id()), Some(&known));
    }

    #[test]
    fn what_a_thread_did_is_remembered_while_it_does_it() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let path = format!("/proc/{}/syscall", child.id());
        while !std::fs::read_to_string(&path).unwrap().starts_with("230 ") {
            std::thread::yield_now();
        }
        let mut sleepers = Sleepers::default();
        sleepers.look(&[child.id()]);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            std::thread::yield_now();
        }
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        while !std::fs::read_to_string(&path).unwrap().starts_with("219 ") {
            std::thread::yield_now();
        }
        sleepers.look(&[child.id()]);
        assert_eq!(sleepers.0[&child.id()].number, CLOCK_NANOSLEEP);
        child.kill().unwrap();
        child.wait().unwrap();
        sleepers.look(&[child.id()]);
        assert!(sleepers.0.is_empty());
    }

    #[test]
    fn a_program_that_asks_for_the_remaining_time_hears_of_the_interruption() {
        assert_eq!(changed(Registers { r10: 0x90, ..asleep(CLOCK_NANOSLEEP) }, 230), None);
        assert!(changed(Registers { r10: 0, ..asleep(CLOCK_NANOSLEEP) }, 230).is_some());
    }

    #[test]
    fn what_did_not_fail_or_may_fail_stays() {
        assert_eq!(changed(Registers { ax: 0, ..asleep(CLOCK_NANOSLEEP) }, 230), None);
        assert_eq!(changed(asleep(232), 232), None, "epoll_wait");
    }

    #[test]
    fn an_image_that_makes_no_sense_stays() {
        assert_eq!(begin_anew(&[1; 30], None, |_| None), None);
        assert_eq!(begin_anew(&[], None, |_| None), None);
    }

    #[test]
    fn an_address_at_either_end_of_memory_is_none_of_a_call() {
        assert_eq!(changed(Registers { ax: RESTART, ip: u64::MAX, ..asleep(CLOCK_NANOSLEEP) }, 230), None);
        let call = |text| Call::parse(text).unwrap();
        let (end, begin) = (call("219 0x0 0xffffffffffffffff"), call("230 0x0 0x1"));
        assert!(end.goes_on(&begin), "the kernel never says so, and nothing is added up");
    }
}
