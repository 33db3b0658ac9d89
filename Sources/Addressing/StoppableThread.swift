import CKernel
import Glibc
import Kernel
import Synchronization

/// A thread that works until it is done or told to stop. It is in the network namespace of the thread that made it.
final class StoppableThread: Sendable {
    private final class Job: Sendable {
        let body: @Sendable (Int32) -> Void
        let stop: FileDescriptor
        init(_ body: @escaping @Sendable (Int32) -> Void, stop: consuming FileDescriptor) {
            self.body = body
            self.stop = stop
        }
    }

    private let job: Job
    private let thread: Mutex<pthread_t?>

    /// `body` gets a descriptor that becomes readable when it should return.
    init(_ name: String, _ body: @escaping @Sendable (Int32) -> Void) throws(AddressingError) {
        let raw = try kernel { () throws(KernelError) in
            try systemCall("eventfd") { eventfd(0, Int32(EFD_CLOEXEC)) }
        }
        let job = Job(body, stop: FileDescriptor(owning: raw))
        var handle = pthread_t()
        let argument = Unmanaged.passRetained(job)
        let code = pthread_create(
            &handle, nil,
            { argument in
                guard let argument else { return nil }
                let job = Unmanaged<Job>.fromOpaque(argument).takeRetainedValue()
                job.body(job.stop.raw)
                return nil
            }, argument.toOpaque())
        guard code == 0 else {
            argument.release()
            throw .kernel(KernelError(call: "pthread_create", object: name, code: Errno(rawValue: code)))
        }
        self.job = job
        thread = Mutex(handle)
    }

    deinit { cancel() }

    /// Tells the thread to stop and waits until it has. Repeatable.
    func cancel() {
        guard let handle = thread.withLock({ $0.take() }) else { return }
        var one: UInt64 = 1
        _ = write(job.stop.raw, &one, 8)
        pthread_join(handle, nil)
    }
}
