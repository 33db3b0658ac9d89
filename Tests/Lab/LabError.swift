/// What went wrong in the lab, in one sentence that names the object and, where there is one, the remedy.
public struct LabError: Error, CustomStringConvertible, Sendable {
    public let description: String
    public init(_ description: String) { self.description = description }
}
