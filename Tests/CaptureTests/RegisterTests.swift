import CKernel
import Clocks
import Glibc
import Kernel
import KernelCapture
import ProcessImage
import Testing

@testable import Capture

/// The kernel's own view through ptrace(2) is the judge of what the capture module reads without stopping anybody.
@Suite(.serialized) struct RegisterTests {
    private func ptrace(_ request: Int, _ tid: Int32, _ address: Int, _ data: Int) throws {
        try systemCall("ptrace", on: "thread \(tid)") {
            ck_syscall(Int(SYS_ptrace), request, Int(tid), address, data, 0, 0)
        }
    }

    /// PTRACE_GETREGSET.
    private func registerSet(_ kind: Int, of tid: Int32) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 16384)
        var count = 0
        try bytes.withUnsafeMutableBytes { buffer in
            var vector = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
            try withUnsafeMutablePointer(to: &vector) { try ptrace(0x4204, tid, kind, Int(bitPattern: $0)) }
            count = vector.iov_len
        }
        return [UInt8](bytes.prefix(count))
    }

    @Test func registersAndExtendedStateAreThoseOfPtrace() throws {
        let service = try TestService()
        let module = try CaptureModule.load()
        let capture = ThreadCapture(clocks: try HostClocks())
        try service.cgroup.freeze()
        let task = try #require(try module.tasks(pids: [service.pid]).first)
        try service.cgroup.thaw()
        for thread in task.threads {
            let image = try capture.image(of: thread)
            // PTRACE_SEIZE, PTRACE_INTERRUPT.
            try ptrace(0x4206, thread.tid, 0, 0)
            try ptrace(0x4207, thread.tid, 0, 0)
            var status: Int32 = 0
            try systemCall("wait4") { waitpid(thread.tid, &status, 0x4000_0000) }
            let general = try registerSet(1, of: thread.tid)
            let extended = try registerSet(0x202, of: thread.tid)
            var mask: UInt64 = 0
            try withUnsafeMutablePointer(to: &mask) { try ptrace(0x420a, thread.tid, 8, Int(bitPattern: $0)) }
            try ptrace(17, thread.tid, 0, 0)
            #expect(image.blockedSignals == mask)
            // ax differs where the EINTR of the freezer was hidden.
            let words = general.withUnsafeBytes { [UInt64]($0.bindMemory(to: UInt64.self)) }
            for index in words.indices where index != ThreadCapture.ax {
                #expect(words[index] == thread.registers[index], "register \(index) of \(thread.name)")
            }
            #expect(extended.count == image.extendedState.count)
            compare(image.extendedState.content, extended, thread)
        }
    }

    /// Equal but for the bytes that are reserved for software (464…511 of the legacy area).
    private func compare(_ ours: [UInt8], _ theirs: [UInt8], _ thread: ThreadRecord) {
        let different = ours.indices.filter { $0 < theirs.count && ours[$0] != theirs[$0] && !(464..<512).contains($0) }
        #expect(different.isEmpty, "xsave bytes \(different.prefix(20)) of thread \(thread.tid)")
    }
}
