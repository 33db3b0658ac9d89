import CKernel
import Glibc
import Kernel
import Synchronization

/// Takes this process's labs down on SIGINT and SIGTERM, then lets the signal do what it would have done.
enum LabSignals {
    private static let names = Mutex<Set<String>>([])
    private static let installed = Mutex(false)
    /// The eventfd that the handler writes to: write(2) is all that signal-safety(7) leaves it.
    fileprivate static let wake = Atomic<Int32>(-1)
    fileprivate static let received = Atomic<Int32>(0)

    static func remember(_ name: String) { names.withLock { _ = $0.insert(name) } }
    static func forget(_ name: String) { names.withLock { _ = $0.remove(name) } }

    static func complain(_ text: String) {
        let bytes = [UInt8]("lab: \(text)\n".utf8)
        _ = write(2, bytes, bytes.count)
    }

    static func install() {
        let first = installed.withLock { done in
            defer { done = true }
            return !done
        }
        guard first else { return }
        do throws(KernelError) {
            let event = try EventCounter()
            wake.store(event.raw, ordering: .releasing)
            try BlockingThread.start("lab-signals") {
                event.wait(milliseconds: -1)
                takeAllDown()
                let number = received.load(ordering: .acquiring)
                signal(number, SIG_DFL)
                kill(getpid(), number)
            }
            for number in [SIGINT, SIGTERM, SIGHUP] {
                signal(number, wakeSignalThread)
            }
        } catch {
            complain("signals will not take the lab down: \(error)")
        }
    }

    private static func takeAllDown() {
        for name in names.withLock({ $0 }).sorted() { Lab.down(name: name) }
    }
}

private func wakeSignalThread(_ number: Int32) {
    LabSignals.received.store(number, ordering: .releasing)
    var one: UInt64 = 1
    _ = write(LabSignals.wake.load(ordering: .acquiring), &one, 8)
}
