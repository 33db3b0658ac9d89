import Kernel
import Testing

@Suite(.serialized) struct SystemCallTests {
    @Test func failureNamesCallObjectAndReason() {
        #expect(throws: KernelError(call: "open", object: "/nonexistent/x", code: .noEntry)) {
            _ = try Files.read("/nonexistent/x")
        }
        #expect(
            KernelError(call: "open", object: "/x", code: .noEntry).description
                == "open /x: ENOENT (No such file or directory)")
    }

    @Test func seamFailsTheChosenOccurrence() throws {
        FaultSeam.arm(.init(call: "readlink", occurrence: 2, code: .noMemory))
        defer { FaultSeam.arm(nil) }
        _ = try Files.readLink("/proc/self/exe")
        #expect(throws: KernelError(call: "readlink", object: "/proc/self/exe", code: .noMemory)) {
            _ = try Files.readLink("/proc/self/exe")
        }
        _ = try Files.readLink("/proc/self/exe")
    }
}
