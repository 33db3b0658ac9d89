import Glibc
import Kernel
import Testing

@testable import Lab

/// A call that fails once, on one side of a move.
struct Fault: CustomStringConvertible {
    enum Role { case source, destination }
    let role: Role
    let call: String
    let occurrence: Int
    let error: String
    var description: String { "\(call):\(occurrence):\(error) in the \(role)" }

    /// What the error says; by itself, the failed call and the error.
    let words: [String]

    init(_ role: Role, _ call: String, _ occurrence: Int, _ error: String, tells words: [String] = []) {
        self.role = role
        self.words = words.isEmpty ? [call.split(separator: " ").last.map(String.init) ?? call, error] : words
        self.call = call
        self.occurrence = occurrence
        self.error = error
    }

    /// Steps of every stage of both sides, from the first change to the last step before the commit.
    static let all: [Fault] = [
        Fault(.destination, "mkdir", 1, "EACCES"),
        Fault(.destination, "write", 1, "ENOSPC"),
        Fault(.destination, "ioctl", 1, "EBUSY"),
        Fault(.destination, "unshare", 1, "ENOSPC"),
        Fault(.destination, "clone3", 1, "EAGAIN"),
        Fault(.destination, "embryo clone3", 1, "EEXIST", tells: ["number", "in use"]),
        Fault(.destination, "embryo close_range", 1, "EINVAL"),
        Fault(.destination, "sendmsg", 1, "ECONNREFUSED"),
        Fault(.destination, "embryo mmap", 3, "ENOMEM"),
        Fault(.destination, "process_vm_writev", 1, "EIO"),
        Fault(.destination, "embryo socket", 1, "EMFILE"),
        Fault(.destination, "setsockopt", 3, "EPERM"),
        Fault(.destination, "embryo dup3", 2, "EBADF"),
        Fault(.destination, "ptrace", 1, "EPERM"),
        Fault(.destination, "ptrace", 8, "EIO"),
        Fault(.source, "mkdir", 1, "EACCES"),
        Fault(.source, "rename", 1, "ENOSPC"),
        Fault(.source, "write", 3, "ENOMEM"),
        Fault(.source, "pread", 2, "EIO"),
        Fault(.source, "pidfd_getfd", 3, "EMFILE"),
        Fault(.source, "setsockopt", 1, "EPERM"),
        Fault(.source, "setsockopt", 3, "EPERM"),
        Fault(.source, "process_vm_readv", 2, "ENOMEM"),
    ]
}

/// Each step that can fail does, while a client talks to the service: the client notices nothing, the source runs the
/// service, the destination has nothing of it, and the next move of the same service succeeds.
@Suite(.serialized)
struct RollbackFaultTests {
    @Test func `Any step before the commit may fail`() throws {
        if skippedWithoutRoot() { return }
        let lab = try RollbackLab("fault")
        var here = "a", there = "b"
        let pid = try lab.start(on: here)
        let talk = try lab.connect()
        for fault in Fault.all {
            let host = fault.role == .source ? here : there
            try lab[host].fail("\(fault.call):\(fault.occurrence):\(fault.error)")
            let result = try lab.migrate(from: here, to: there)
            #expect(!result.succeeded, "\(fault): the move went on: \(result.output)")
            let log = try lab.log(on: host)
            #expect(log.contains("a fault is injected"), "\(fault): \(log)")
            if result.succeeded {
                swap(&here, &there)
                continue
            }
            #expect(
                fault.words.allSatisfy(result.errorOutput.contains),
                "\(fault): the error does not tell \(fault.words): \(result.errorOutput)")
            try lab.expectUndisturbed(on: here, not: there, pid: pid, talk: talk)
            try lab.expectMove(from: here, to: there, pid: pid)
            try talk.awaitProgress()
            swap(&here, &there)
        }
        try talk.finish()
    }

    @Test func `A plan is read as call, occurrence and error`() {
        #expect(FaultSeam.Plan("clone3:2:ENOMEM")?.occurrence == 2)
        #expect(FaultSeam.Plan("embryo mmap:1:ENOMEM")?.call == "embryo mmap")
        for wrong in ["", "clone3", "clone3:0:EIO", "clone3:x:EIO", "clone3:1:NOTHING", ":1:EIO", "a:1:EIO:b"] {
            #expect(FaultSeam.Plan(wrong) == nil)
        }
    }
}

extension LabHost {
    /// Starts mobilityd with a call that fails once, as `CALL:OCCURRENCE:ERROR`.
    func fail(_ plan: String) throws {
        let directory = "/run/systemd/system/mobilityd.service.d"
        try run("mkdir", "-p", directory)
        try write("\(directory)/fault.conf", "[Service]\nEnvironment=\"MOBILITYD_FAULT=\(plan)\"\n")
        try restartMobilityd()
    }

    /// Nothing fails by intent any more.
    func failNothing() throws {
        try run("rm", "/run/systemd/system/mobilityd.service.d/fault.conf")
        try restartMobilityd()
    }

    private func restartMobilityd() throws {
        try run("systemctl", "daemon-reload")
        // Many restarts in a row are what a test is about, not a daemon in a crash loop.
        try run("systemctl", "reset-failed", "mobilityd", allowFailure: true)
        try run("systemctl", "restart", "mobilityd")
    }
}
